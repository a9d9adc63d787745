"""Selection policies: which heads are sampled from the pool, and which are re-initialized.

`HeadStats` are tensors by name: age (steps since the head was initialized), updates (training steps since then),
created (the step that initialized it), logit_gap (running mean; 0 before the first update).

A sample policy maps (stats, heads_per_cell, generator) to indices (V, L, heads_per_cell), unique in a cell; its stats
are those of one noise level, (V, L, n). A refresh policy maps (stats, count, generator) to unique indices (count, 4):
noise level, view, feature level, place in the cell; its stats are (noise levels, V, L, n). All randomness comes from
the generator; ties are broken at random.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

__all__ = [
    "HeadStats",
    "RefreshPolicy",
    "SamplePolicy",
    "TStarLaw",
    "check_refreshed",
    "check_sampled",
    "lowest_ranked",
    "refresh_oldest",
    "refresh_strongest",
    "refresh_uniform",
    "refresh_weakest",
    "sample_least_updated",
    "sample_uniform",
]

HeadStats = Mapping[str, Tensor]
SamplePolicy = Callable[[HeadStats, int, Generator], Tensor]
RefreshPolicy = Callable[[HeadStats, int, Generator], Tensor]
TStarLaw = Callable[[int, int, HeadStats, Generator], Tensor]  # see `nitro_lab.training.parts.Parts`


def sample_uniform(stats: HeadStats, heads_per_cell: int, generator: Generator) -> Tensor:
    """Sample each head with the same probability, as in the paper."""
    order = torch.rand(stats["updates"].shape, generator=generator, device=generator.device)
    return order.argsort(-1)[..., :heads_per_cell]


def sample_least_updated(stats: HeadStats, heads_per_cell: int, generator: Generator) -> Tensor:
    """Sample the heads with the fewest updates, so that all are trained equally often."""
    updates = stats["updates"]
    tie_break = torch.rand(updates.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return (updates.to(tie_break) + tie_break).argsort(-1)[..., :heads_per_cell]


def refresh_uniform(stats: HeadStats, count: int, generator: Generator) -> Tensor:
    """Re-initialize each head with the same probability, as in the paper."""
    shape = stats["age"].shape
    order = torch.randperm(shape.numel(), generator=generator, device=generator.device)
    return torch.stack(torch.unravel_index(order[:count], shape), 1)


def refresh_oldest(stats: HeadStats, count: int, generator: Generator) -> Tensor:
    """Re-initialize the heads of the greatest age."""
    return lowest_ranked(-stats["age"], count, generator)


def refresh_weakest(stats: HeadStats, count: int, generator: Generator) -> Tensor:
    """Re-initialize the heads of the smallest logit gap; heads without an update come last."""
    return lowest_ranked(stats["logit_gap"].where(stats["updates"] > 0, torch.inf), count, generator)


def refresh_strongest(stats: HeadStats, count: int, generator: Generator) -> Tensor:
    """Re-initialize the heads of the largest logit gap, which may have memorized the real samples; untrained last."""
    return lowest_ranked((-stats["logit_gap"]).where(stats["updates"] > 0, torch.inf), count, generator)


def lowest_ranked(rank: Tensor, count: int, generator: Generator) -> Tensor:
    """Return the indices (count, 4) of the lowest values of `rank` (noise levels, V, L, n)."""
    order = torch.randperm(rank.numel(), generator=generator, device=generator.device).to(rank.device)
    order = order[rank.flatten()[order].argsort(stable=True)]
    return torch.stack(torch.unravel_index(order[:count], rank.shape), 1)


def check_sampled(indices: Tensor, shape: tuple[int, ...], heads_per_cell: int) -> None:
    """Raise a ValueError unless a sample policy's indices are integers of `shape`, unique in a cell and in range."""
    if indices.shape != shape or indices.is_floating_point():
        got = f"{indices.dtype} of shape {tuple(indices.shape)}"
        raise ValueError(f"sample_heads returned {got}; it must be integers of shape {shape} (views, levels, heads).")
    low, high = int(indices.min()), int(indices.max())
    if low < 0 or high >= heads_per_cell:
        raise ValueError(f"sample_heads returned indices from {low} to {high}; allowed are 0 to {heads_per_cell - 1}.")
    if (indices.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError("sample_heads returned a head twice in one cell; the indices of a cell must be unique.")


def check_refreshed(indices: Tensor, count: int, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless a refresh policy's indices are `count` different heads of a pool of this shape."""
    if indices.shape != (count, len(shape)) or indices.is_floating_point():
        got = f"{indices.dtype} of shape {tuple(indices.shape)}"
        raise ValueError(f"select_refreshed returned {got}; it must be integers of shape ({count}, {len(shape)}).")
    outside = ((indices < 0) | (indices >= torch.tensor(shape))).any(1)
    if outside.any():
        raise ValueError(f"select_refreshed returned {indices[outside][0].tolist()}; the pool's shape is {shape}.")
    if len(indices.unique(dim=0)) < count:
        raise ValueError("select_refreshed returned a head twice; its indices must be unique.")
