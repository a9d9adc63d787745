"""What the pool is measured against: critics that cost nothing, a plain list of heads, and the textbook's step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nitro_lab.heads import ConvHead
from nitro_lab.judging import draw_batch, look
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.randomness import random_below
from nitro_lab.sampling import predict_x0
from nitro_lab.studio import Training

Maps = Sequence[Sequence[torch.Tensor]]


class MeanCritics:
    """In place of a pool and its panel: the only logit of an image is the mean of its features, times one number."""

    noise_level = 0

    def __init__(self, views: int, levels: int, device: torch.device):
        self.slots = torch.zeros(views, levels, 1, dtype=torch.long)
        self.weight = torch.ones((), device=device, requires_grad=True)

    def draw(self, noise_level: int, per_cell: int) -> "MeanCritics":
        """Itself."""
        return self

    def score(self, features: Maps) -> list[torch.Tensor]:
        """One row of logits a cell, as `Panel.score` has them."""
        return [self.weight * feature.mean((1, 2, 3))[None] for maps in features for feature in maps]

    def leaves(self) -> list[torch.Tensor]:
        """What the critics' loss is differentiated by."""
        return [self.weight]

    def learn(self, *arguments: Any) -> None:
        """Nothing."""

    def note(self, *arguments: Any) -> None:
        """Nothing."""

    def refresh(self, fraction: float) -> torch.Tensor:
        """Nobody."""
        return torch.zeros(0, 4, dtype=torch.long)


class ListedCritics:
    """The pool as one would write it first: a list of modules, one optimiser over all of them, heads run in turn."""

    def __init__(
        self, channels: Sequence[int], width: int, shape: tuple[int, int, int, int], rate: float, device: torch.device
    ):
        noise_levels, views, levels, slots = self.shape = shape
        places = [level for _ in range(noise_levels * views) for level in range(levels) for _ in range(slots)]
        self.heads = nn.ModuleList(ConvHead(channels[level], width) for level in places).to(device)
        weights = self.heads.parameters()
        # fused as the pool's own step is: the pool shall not win by a kernel that a list can have too
        self.optimizer = torch.optim.AdamW(weights, rate, betas=(0.5, 0.99), weight_decay=0.0, fused=True)

    def draw(self, noise_level: int, per_cell: int) -> list[list[list[nn.Module]]]:
        """Heads of a panel: views, feature levels, `per_cell`."""
        _, views, levels, slots = self.shape
        return [
            [
                [
                    self.heads[((noise_level * views + view) * levels + level) * slots + slot]
                    for slot in torch.randperm(slots)[:per_cell].tolist()
                ]
                for level in range(levels)
            ]
            for view in range(views)
        ]

    @staticmethod
    def score(panel: list[list[list[nn.Module]]], features: Maps) -> list[torch.Tensor]:
        """Logits of each head."""
        return [
            head(feature)
            for cells, maps in zip(panel, features, strict=True)
            for heads, feature in zip(cells, maps, strict=True)
            for head in heads
        ]


def listed_update(critics: ListedCritics, training: Training, real: Maps, fake: Maps) -> None:
    """Score both sides and learn, head after head; the sum over heads, as in the pool."""
    objective, config = OBJECTIVES[training.config.objective], training.config
    panel = critics.draw(random_below(len(config.t_star), training.generator), config.per_cell)
    pairs = zip(critics.score(panel, real), critics.score(panel, fake), strict=True)
    critics.optimizer.zero_grad()
    torch.stack([objective.critic(r, f) for r, f in pairs]).sum().backward()
    critics.optimizer.step()


def textbook_step(critics: ListedCritics, training: Training) -> None:
    """A GAN's step as in textbooks: first D with fakes of its own, then G with others, each through the backbone."""
    config, objective = training.config, OBJECTIVES[training.config.objective]
    noise_level = random_below(len(config.t_star), training.generator)
    t_star, panel = config.t_star[noise_level], critics.draw(noise_level, config.per_cell)

    batch = draw_batch(training)
    with torch.no_grad():
        fakes = predict_x0(training.student, training.scheduler, batch.x_T, batch.fake_told)
        real_maps = look(training, batch.reals, batch.real_told, batch.real_noise, t_star, crops=0)
        fake_maps = look(training, fakes, batch.fake_told, batch.fake_noise, t_star, crops=0)
    pairs = zip(critics.score(panel, real_maps), critics.score(panel, fake_maps), strict=True)
    critics.optimizer.zero_grad()
    torch.stack([objective.critic(r, f) for r, f in pairs]).sum().backward()
    critics.optimizer.step()

    batch = draw_batch(training)
    fakes = predict_x0(training.student, training.scheduler, batch.x_T, batch.fake_told)
    fake_maps = look(training, fakes, batch.fake_told, batch.fake_noise, t_star, crops=0)
    training.optimizer.zero_grad()
    torch.stack([objective.student(f) for f in critics.score(panel, fake_maps)]).mean().backward()
    torch.nn.utils.clip_grad_norm_(training.student.parameters(), config.clip)
    training.optimizer.step()
    training.average.update_parameters(training.student)
