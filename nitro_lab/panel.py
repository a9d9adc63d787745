"""The heads drawn for one step: they judge, they learn, and they go back to the pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from nitro_lab.pool import DiscriminatorPool


class Sight(list[torch.Tensor]):
    """One view's feature maps (B, C, h, w), level by level, and `pooled` (B, E), the text that it was told."""

    def __init__(self, maps: Iterable[torch.Tensor], pooled: torch.Tensor):
        super().__init__(maps)
        self.pooled = pooled


class Panel:
    """Some heads of each cell of one noise level.

    Attributes:
        noise_level: which.
        slots: (views, levels, per_cell), who was drawn.
        weights: for each view, for each level, the drawn heads' rows (per_cell, P), leaves that take gradients.
    """

    def __init__(self, pool: DiscriminatorPool, noise_level: int, slots: torch.Tensor):
        self.pool = pool
        self.noise_level = noise_level
        self.slots = slots
        self.rows = [[pool.row(noise_level, view, drawn) for drawn in levels] for view, levels in enumerate(slots)]
        self.weights = [
            [pool.state(level)[0][rows].requires_grad_() for level, rows in enumerate(levels)] for levels in self.rows
        ]

    def score(self, features: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
        """Logits of every cell, views first: a list of (per_cell, all logits of a head).

        Args:
            features: for each view, its feature maps (B, C, h, w), level by level; a `Sight` where heads take the text.
        """
        return [
            self.pool.heads[level].score(rows, feature, getattr(maps, "pooled", None))
            for weights, maps in zip(self.weights, features, strict=True)
            for level, (rows, feature) in enumerate(zip(weights, maps, strict=True))
        ]

    def leaves(self) -> list[torch.Tensor]:
        """All drawn weights, in the order of `score`."""
        return [rows for levels in self.weights for rows in levels]

    @torch.no_grad()
    def learn(
        self,
        gradients: Sequence[torch.Tensor],
        rate: float,
        betas: tuple[float, float] = (0.5, 0.99),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """One step of AdamW (Loshchilov and Hutter 2019) on the drawn rows, each with its own step count.

        Call it before `DiscriminatorPool.note`, which counts the step.
        """
        places = [(view, level) for view, levels in enumerate(self.rows) for level in range(len(levels))]
        beta1, beta2 = betas
        counts = self.pool.moment_steps()[self.noise_level] + 1
        for (view, level), gradient in zip(places, gradients, strict=True):
            rows, weights = self.rows[view][level], self.weights[view][level]
            stored, first, second = self.pool.state(level)
            steps = counts[view, level, self.slots[view, level]].to(gradient)[:, None]
            mean = first[rows].lerp_(gradient, 1 - beta1)
            square = second[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            denominator = (square / (1 - beta2**steps)).sqrt_().add_(eps)
            step = (rate / (1 - beta1**steps) * mean).div_(denominator)
            stored[rows] = (weights * (1 - rate * weight_decay)).sub_(step)
            first[rows], second[rows] = mean, square
