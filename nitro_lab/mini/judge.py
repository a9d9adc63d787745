"""The judge: a small network that tells which scene a picture shows, and how many objects.

It replaces the people (or the CLIP scores) that judge big models: every factor of every caption is known here, so
"did the picture show what was asked?" has an exact answer. Its last layer gives the features for the distances of
`nitro_lab.evaluate`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.noise import SIZE
from nitro_lab.mini.world import FACTORS

JUDGE_FILE = MODEL_FOLDER / "judge.safetensors"
MOST_OBJECTS = 3
FEATURES = 128


@dataclass(frozen=True)
class Verdict:
    """What the judge says of N pictures.

    factors: (N, 6) integers, the scene it sees; counts: (N,) integers from 1 to 3; features: (N, 128).
    """

    factors: torch.Tensor
    counts: torch.Tensor
    features: torch.Tensor


class Judge(nn.Module):
    """Five convolution stages down to 4×4, one hidden layer, and a linear read-out for each question."""

    def __init__(self, channels: tuple[int, ...] = (24, 48, 80, 112, 144)):
        super().__init__()
        pairs = zip((5, *channels), channels, strict=False)
        self.stages = nn.Sequential(*(stage(a, b, first=i == 0) for i, (a, b) in enumerate(pairs)))
        self.last = nn.Linear(channels[-1] * 16, FEATURES)
        self.questions = nn.ModuleDict({name: nn.Linear(FEATURES, len(values)) for name, values in FACTORS.items()})
        self.questions["count"] = nn.Linear(FEATURES, MOST_OBJECTS)
        ticks = torch.linspace(-1, 1, SIZE)
        self.position: torch.Tensor
        self.register_buffer("position", torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Images (N, 3, 64, 64) in [-1, 1] -> logits (N, answers) for each question, and features (N, 128)."""
        position = self.position.expand(len(images), -1, -1, -1)
        hidden = self.stages(torch.cat([images, position], 1))
        features = self.last(hidden.flatten(1))
        return {name: read(torch.relu(features)) for name, read in self.questions.items()}, features

    @torch.no_grad()
    def look(self, images: torch.Tensor, batch_size: int = 250) -> Verdict:
        """Judge any number of pictures, a batch at a time. (N, 3, 64, 64) in [-1, 1]."""
        logits, features = zip(*(self(batch) for batch in images.split(batch_size)), strict=True)
        answers = {name: torch.cat([part[name] for part in logits]).argmax(1) for name in self.questions}
        return Verdict(torch.stack([answers[name] for name in FACTORS], 1), answers["count"] + 1, torch.cat(features))


@torch.no_grad()
def scale_features(judge: Judge, images: torch.Tensor) -> None:
    """Give the features of these pictures (N, 3, 64, 64) unit variance on average, and leave every answer as it is.

    The read-outs are linear after a ReLU, so a positive factor moves from the features into their weights. Without it
    the kernel distance, cubic in the features, is a number that nobody can read.
    """
    spread = judge.look(images).features.var(0).mean().sqrt()
    judge.last.weight.div_(spread)
    judge.last.bias.div_(spread)
    for question in judge.questions.values():
        question.weight.mul_(spread)  # type: ignore[operator]  # a linear layer's weight


def stage(inputs: int, outputs: int, first: bool) -> nn.Sequential:
    """Halve the picture (but for the first stage), then look twice. (N, inputs, H, W) -> (N, outputs, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=1 if first else 2, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def load_judge(device: str | torch.device = "cpu", path: Path = JUDGE_FILE) -> Judge:
    """The trained judge, in float32 and for inference only."""
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.to(device).eval().requires_grad_(False)
