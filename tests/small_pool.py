"""A pool of two dozen of the smallest heads, and one training step of it."""

from functools import partial

import torch
from torch import nn

from nitro_lab.discriminators.losses import hinge_d_loss
from nitro_lab.discriminators.optimizers import HeadOptimizer, adamw
from nitro_lab.discriminators.pool import DiscriminatorPool, Panel, ViewFeatures

CHANNELS = (3, 5)
LEARNING_RATE, BETAS, WEIGHT_DECAY = 0.01, (0.5, 0.99), 0.1
ADAMW = partial(adamw, betas=BETAS, weight_decay=WEIGHT_DECAY)


class MeanHead(nn.Module):
    """The smallest head that can learn: a linear map of the mean feature."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.linear(feature.mean((2, 3)))


def make_pool(head=MeanHead, seed: int = 0, **options) -> DiscriminatorPool:
    options = {"channels": CHANNELS, "noise_levels": 2, "views": 2, "heads_per_cell": 3} | options
    return DiscriminatorPool(head, generator=torch.Generator().manual_seed(seed), **options)


def train_step(
    pool: DiscriminatorPool,
    generator: torch.Generator,
    noise_level: int = 0,
    heads_per_cell: int = 1,
    optimizer: HeadOptimizer = ADAMW,
) -> tuple[Panel, list[ViewFeatures], list[ViewFeatures], torch.Tensor]:
    """Sample heads and update them. Returns the panel, real and fake features, and the logit gaps."""
    panel = pool.sample(noise_level, heads_per_cell)
    views = [
        ViewFeatures([torch.randn(6, width, 4, 4, generator=generator).to(pool.logit_gap) for width in CHANNELS])
        for _ in range(2 * pool.shape[1])
    ]
    real, fake = views[: pool.shape[1]], views[pool.shape[1] :]
    logits = list(zip(panel.score(real), panel.score(fake), strict=True))
    loss = torch.stack([hinge_d_loss(r, f) * len(r) for r, f in logits]).sum()
    gaps = torch.stack([(r.mean(1) - f.mean(1)).detach() for r, f in logits]).view(panel.indices.shape)
    gradients = torch.autograd.grad(loss, panel.parameters())
    pool.step(panel, gradients, gaps, LEARNING_RATE, optimizer)
    return panel, real, fake, gaps


def head_state(pool: DiscriminatorPool, index: tuple[int, int, int, int]) -> list[torch.Tensor]:
    """Parameters and AdamW's two moments of one head, each (P,)."""
    noise_level, view, level, place = index
    return [values[noise_level, view, place] for values in pool.level_state(level)]
