"""The scene classifier: a small network that predicts the scene of an image and its number of objects.

It replaces human raters and CLIP scores: every factor of every caption is known, so whether an image shows its caption
has an exact answer. Its last hidden layer gives the features for the distances of `nitro_lab.evaluation.metrics`.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.patterns import SIZE
from nitro_lab.mini.world import FACTORS

__all__ = ["CLASSIFIER_FILE", "MAX_OBJECTS", "SceneClassifier", "ScenePrediction", "load_scene_classifier"]

CLASSIFIER_FILE = MODEL_FOLDER / "scene_classifier.safetensors"
MAX_OBJECTS = 3
_FEATURES = 128


@dataclass(frozen=True)
class ScenePrediction:
    """Predictions for N images: factors (N, 6) integers, counts (N,) integers from 1 to 3, features (N, 128)."""

    factors: torch.Tensor
    counts: torch.Tensor
    features: torch.Tensor


class SceneClassifier(nn.Module):
    """Five convolutional stages down to 4×4, one hidden layer, and a linear output for each factor and the count."""

    def __init__(self, channels: tuple[int, ...] = (24, 48, 80, 112, 144)):
        super().__init__()
        pairs = zip((5, *channels), channels, strict=False)
        self.stages = nn.Sequential(*(_stage(a, b, stride=1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.hidden = nn.Linear(channels[-1] * 16, _FEATURES)
        self.outputs = nn.ModuleDict({name: nn.Linear(_FEATURES, len(values)) for name, values in FACTORS.items()})
        self.outputs["count"] = nn.Linear(_FEATURES, MAX_OBJECTS)
        ticks = torch.linspace(-1, 1, SIZE)
        self.position: torch.Tensor
        self.register_buffer("position", torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")), persistent=False)

    def forward(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Images (N, 3, 64, 64) in [-1, 1] -> logits (N, classes) for each output, and features (N, 128)."""
        position = self.position.expand(len(images), -1, -1, -1)
        features = self.hidden(self.stages(torch.cat([images, position], 1)).flatten(1))
        return {name: output(torch.relu(features)) for name, output in self.outputs.items()}, features

    @torch.no_grad()
    def predict(self, images: torch.Tensor, batch_size: int = 250) -> ScenePrediction:
        """Classify any number of images (N, 3, 64, 64) in [-1, 1], in batches."""
        logits, features = zip(
            *(self(batch.to(self.position.device)) for batch in images.split(batch_size)), strict=True
        )
        classes = {name: torch.cat([batch[name] for batch in logits]).argmax(1) for name in self.outputs}
        factors = torch.stack([classes[name] for name in FACTORS], 1)
        return ScenePrediction(factors, classes["count"] + 1, torch.cat(features))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Two convolutions, the first with a stride. (N, inputs, H, W) -> (N, outputs, H/stride, W/stride)."""
    convs = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(*(layer for conv in convs for layer in (conv, nn.BatchNorm2d(outputs), nn.ReLU())))


def load_scene_classifier(device: str | torch.device | None = None, path: Path = CLASSIFIER_FILE) -> SceneClassifier:
    """Load the trained classifier in float32, in eval mode and without gradients; by default on CUDA if available."""
    classifier = SceneClassifier()
    classifier.load_state_dict(load_file(path))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")  # as `load_pipeline`
    return classifier.to(device).eval().requires_grad_(False)
