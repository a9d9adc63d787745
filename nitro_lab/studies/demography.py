"""How old critics get, and how much they learn in a life: a closed form, a simulation, and a count of a real pool.

In each step one noise level is drawn, then `per_cell` of the slots in each of its cells. So a head is drawn with chance
p = per_cell / (slots · noise levels). After the step it is thrown out with chance f, the refresh rate.

**Age** (steps since birth) of the heads alive: a head of age a has survived a refreshes and was born by one, so in the
steady state P(a) = f·(1−f)^a, geometric with mean (1−f)/f. A finished life lasts 1/f steps on average.

**Updates** of the heads alive: at age a they are binomial (a draws of chance p), with the generating function
(1 − p + pz)^a. Summed over the ages,

    Σ_a f·(1−f)^a·(1 − p + pz)^a = f / (1 − (1−f)(1 − p + pz)) = f / (f + (1−f)·p·(1−z)) = (1−r) / (1 − r·z)

with r = (1−f)·p / (f + (1−f)·p). That is a geometric distribution again: P(u) = (1−r)·r^u, with mean (1−f)·p/f.
The share that was never updated is 1 − r = f / (f + (1−f)·p).

**A finished life** has one step more (it is trained before it is thrown out), so p/f updates on average.

A pool starts with all heads new. After T steps no head is older than T; `ages` and `updates` say what is alive then.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rules:
    """What decides the lives of critics; the defaults are the paper's, with one head drawn a cell.

    cells: views × feature levels, of each noise level. They do not change the chances, only how many heads there are.
    """

    refresh: float = 0.01
    per_cell: int = 1
    slots: int = 4
    noise_levels: int = 4
    cells: int = 30

    def __post_init__(self):
        """Refuse what is no chance."""
        if not 0 <= self.refresh <= 1:
            raise ValueError(f"refresh is {self.refresh}; it must be from 0 to 1 (the paper's is 0.01).")
        if not 1 <= self.per_cell <= self.slots:
            raise ValueError(f"per_cell is {self.per_cell}; it must be from 1 to the {self.slots} slots of a cell.")

    @property
    def drawn(self) -> float:
        """Chance of a head to be drawn in a step, p."""
        return self.per_cell / (self.slots * self.noise_levels)


def updates_in_a_life(rules: Rules) -> float:
    """Mean number of updates that a head gets until it is thrown out: p/f; infinite without a refresh."""
    return rules.drawn / rules.refresh if rules.refresh else float("inf")


def never_updated(rules: Rules) -> float:
    """Share of heads alive in the steady state that were never updated: f / (f + (1−f)·p). 0 without a refresh."""
    return rules.refresh / (rules.refresh + (1 - rules.refresh) * rules.drawn)


def ages(rules: Rules, steps: int) -> np.ndarray:
    """P(0..steps) of the ages after so many steps: geometric, the rest as old as the pool. (steps + 1,)"""
    alive = (1 - rules.refresh) ** np.arange(steps + 1)
    return np.append(rules.refresh * alive[:-1], alive[-1])


def updates(rules: Rules, steps: int) -> np.ndarray:
    """P(0..steps) of the updates of heads alive after so many steps. (steps + 1,)

    Step by step: with chance p one more, then with chance f back to 0. In the limit it is geometric.
    """
    share = np.zeros(steps + 1)
    share[0] = 1
    for _ in range(steps):
        share[1:] = (1 - rules.drawn) * share[1:] + rules.drawn * share[:-1]
        share[0] *= 1 - rules.drawn
        share *= 1 - rules.refresh
        share[0] += rules.refresh
    return share


def mean_updates(rules: Rules, steps: int) -> float:
    """Mean updates of the heads alive after so many steps; (1−f)·p/f in the limit, p·steps without a refresh."""
    keep = 1 - rules.refresh
    if rules.refresh == 0:
        return rules.drawn * steps
    return rules.drawn * keep * (1 - keep**steps) / rules.refresh


@dataclass(frozen=True)
class Population:
    """Heads alive after some steps: their ages and updates, each (heads,)."""

    rules: Rules
    steps: int
    age: np.ndarray
    updates: np.ndarray


def simulate(rules: Rules, steps: int, seed: int = 0) -> Population:
    """Play the rules by dice, head by head, as the pool plays them; no network takes part."""
    dice = np.random.default_rng(seed)
    shape = (rules.noise_levels, rules.cells, rules.slots)
    age, updated = np.zeros(shape, int), np.zeros(shape, int)
    total = age.size
    for _ in range(steps):
        drawn = dice.random(shape[1:]).argsort(-1) < rules.per_cell
        updated[dice.integers(rules.noise_levels)] += drawn
        age += 1
        gone = dice.permutation(total)[: int(rules.refresh * total + dice.random())]
        age.flat[gone] = 0
        updated.flat[gone] = 0
    return Population(rules, steps, age.ravel(), updated.ravel())


def count(census: dict[str, np.ndarray], rules: Rules, steps: int) -> Population:
    """The same of a real pool, from its `census()` (noise levels, views, feature levels, slots)."""
    return Population(rules, steps, census["age"].ravel(), census["updates"].ravel())


def at_least(shares: np.ndarray) -> np.ndarray:
    """P(0), P(1), … to P(≥ 0), P(≥ 1), …"""
    return shares[::-1].cumsum()[::-1]


def share_at_least(values: np.ndarray, most: int) -> np.ndarray:
    """The share of values that are at least 0, 1, … most. (most + 1,)"""
    return at_least(np.bincount(values, minlength=most + 1)[: most + 1] / len(values))
