"""A pool of two dozen of the smallest heads, and one training step of it."""

import torch
from torch import nn

from nitro_lab.objectives import OBJECTIVES
from nitro_lab.panel import Panel
from nitro_lab.pool import DiscriminatorPool

CHANNELS = (3, 5)
RATE, BETAS, DECAY = 0.01, (0.5, 0.99), 0.1


class MeanHead(nn.Module):
    """The smallest head that learns: a linear map of the mean feature."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.linear(feature.mean((2, 3)))


def make_pool(head=MeanHead, seed: int = 0, **sizes) -> DiscriminatorPool:
    sizes = {"channels": CHANNELS, "noise_levels": 2, "views": 2, "slots": 3} | sizes
    return DiscriminatorPool(head, generator=torch.Generator().manual_seed(seed), **sizes)


def make_features(pool: DiscriminatorPool, generator: torch.Generator) -> list[list[torch.Tensor]]:
    """Feature maps (6, C, 4, 4) for every view and level."""
    return [[torch.randn(6, width, 4, 4, generator=generator) for width in CHANNELS] for _ in range(pool.shape[1])]


def train_step(
    pool: DiscriminatorPool, generator: torch.Generator, noise_level: int = 0, per_cell: int = 1
) -> tuple[Panel, list, list, torch.Tensor]:
    """Draw, judge, learn, note. Returns panel, real and fake features, and the margins."""
    panel = pool.draw(noise_level, per_cell)
    real, fake = make_features(pool, generator), make_features(pool, generator)
    judged = list(zip(panel.score(real), panel.score(fake), strict=True))
    loss = torch.stack([OBJECTIVES["hinge"].critic(r, f) * len(r) for r, f in judged]).sum()
    panel.learn(torch.autograd.grad(loss, panel.leaves()), RATE, BETAS, DECAY)
    margins = torch.stack([(r.mean(1) - f.mean(1)).detach() for r, f in judged]).view(panel.slots.shape)
    pool.note(panel, margins)
    return panel, real, fake, margins


def stored(pool: DiscriminatorPool, place: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """Weights and two moments of one head of the pool, each (P,)."""
    noise_level, view, level, slot = place
    return [rows[pool.row(noise_level, view, torch.tensor(slot))] for rows in pool.state(level)]
