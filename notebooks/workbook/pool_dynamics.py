"""Ages and update counts of the pool's heads: closed forms, a simulation, and counts from a real pool.

A step samples one noise level, then n of the N heads in each of its cells, so a head is updated with probability
p = n / (N · noise levels), and is then re-initialized with probability f, the refresh rate. All heads are new at first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

__all__ = [
    "HeadCounts",
    "PoolSettings",
    "age_distribution",
    "count_heads",
    "mean_updates",
    "simulate",
    "untrained_fraction",
    "update_distribution",
    "updates_per_lifetime",
]


@dataclass(frozen=True)
class PoolSettings:
    """What ages and updates depend on; the defaults are the paper's, with one sampled head per cell."""

    refresh_rate: float = 0.01
    sampled_heads_per_cell: int = 1
    heads_per_cell: int = 4
    noise_levels: int = 4
    cells: int = 30  # views × feature levels; only sets the number of heads

    def __post_init__(self) -> None:
        if not 0 <= self.refresh_rate <= 1 or not 1 <= self.sampled_heads_per_cell <= self.heads_per_cell:
            raise ValueError(f"{self}: refresh_rate must be from 0 to 1, sampled_heads_per_cell up to heads_per_cell.")

    @property
    def update_probability(self) -> float:
        """Probability p that a head is sampled in a step."""
        return self.sampled_heads_per_cell / (self.heads_per_cell * self.noise_levels)


@dataclass(frozen=True)
class HeadCounts:
    """Age and number of updates of every head after `steps` steps, (heads,) each."""

    pool: PoolSettings
    steps: int
    age: np.ndarray
    updates: np.ndarray


def updates_per_lifetime(pool: PoolSettings) -> float:
    """Mean number of updates between two re-initializations of a head, p/f; infinite without a refresh."""
    return pool.update_probability / pool.refresh_rate if pool.refresh_rate else float("inf")


def untrained_fraction(pool: PoolSettings) -> float:
    """Fraction of heads without an update in steady state, f / (f + (1−f)·p); 0 without a refresh."""
    return pool.refresh_rate / (pool.refresh_rate + (1 - pool.refresh_rate) * pool.update_probability)


def age_distribution(pool: PoolSettings, steps: int) -> np.ndarray:
    """P(age = 0..steps), (steps + 1,): f·(1−f)^age, and the rest is as old as the pool."""
    survivors = (1 - pool.refresh_rate) ** np.arange(steps + 1)
    return np.append(pool.refresh_rate * survivors[:-1], survivors[-1])


def update_distribution(pool: PoolSettings, steps: int) -> np.ndarray:
    """P(updates = 0..steps), (steps + 1,), step by step; geometric in steady state."""
    p, f = pool.update_probability, pool.refresh_rate
    fraction = np.eye(1, steps + 1)[0]
    for _ in range(steps):
        fraction = (1 - f) * ((1 - p) * fraction + p * np.append(0, fraction[:-1]))
        fraction[0] += f
    return fraction


def mean_updates(pool: PoolSettings, steps: int) -> float:
    """Mean number of updates of the heads after `steps` steps."""
    keep = 1 - pool.refresh_rate
    return pool.update_probability * (keep * (1 - keep**steps) / pool.refresh_rate if keep < 1 else steps)


def simulate(pool: PoolSettings, steps: int, seed: int = 0) -> HeadCounts:
    """Sample and refresh a pool of counters, without networks."""
    rng = np.random.default_rng(seed)
    age, updates = np.zeros((2, pool.noise_levels, pool.cells, pool.heads_per_cell), int)
    for _ in range(steps):
        sampled = rng.random(age.shape[1:]).argsort(-1) < pool.sampled_heads_per_cell
        updates[rng.integers(pool.noise_levels)] += sampled
        age += 1
        refreshed = rng.permutation(age.size)[: int(pool.refresh_rate * age.size + rng.random())]
        age.flat[refreshed] = updates.flat[refreshed] = 0
    return HeadCounts(pool, steps, age.ravel(), updates.ravel())


def count_heads(stats: Mapping[str, torch.Tensor], pool: PoolSettings, steps: int) -> HeadCounts:
    """Return the counts of a real pool, from its `stats()`."""
    return HeadCounts(pool, steps, stats["age"].numpy().ravel(), stats["updates"].numpy().ravel())
