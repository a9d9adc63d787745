"""The heads drawn for one step: they judge, they learn, and they go back to the pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch.optim.adamw import adamw

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

        Rows are changed where they lie, by torch's fused kernel: it goes through their numbers once. Call it before
        `DiscriminatorPool.note`, which counts the step.
        """
        counts = self.pool.moment_steps()[self.noise_level].gather(-1, self.slots)
        steps = counts.to(gradients[0].device, torch.float32).flatten()  # a copy, in which the kernel counts on
        weights, first, second = map(list, zip(*self.stored(), strict=True))
        adamw(
            weights,
            [row for cell in gradients for row in cell],
            first,
            second,
            [],
            list(steps),
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=betas[0],
            beta2=betas[1],
            lr=rate,
            weight_decay=weight_decay,
            eps=eps,
        )

    def stored(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """The pool's own weights and two moments of each drawn head, in the order of `leaves`."""
        for levels in self.rows:
            for level, rows in enumerate(levels):
                for row in rows.tolist():
                    weights, first, second = self.pool.state(level)
                    yield weights[row], first[row], second[row]
