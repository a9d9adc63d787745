"""Ages and updates of the pool's heads: closed forms, the simulation and a real pool agree."""

import numpy as np
import pytest
import torch
from torch import nn

from nitro_lab.discriminators.pool import DiscriminatorPool
from workbook import pool_dynamics as study
from workbook.pool_dynamics import PoolSettings

SETTINGS = [PoolSettings(rate, sampled) for rate in (0.0, 0.001, 0.01, 0.05) for sampled in (1, 2, 4)]


def mean_of(distribution: np.ndarray) -> float:
    return float(distribution @ np.arange(len(distribution)))


def distance(values: np.ndarray, distribution: np.ndarray) -> float:
    """Kolmogorov's distance."""
    observed = np.bincount(values, minlength=len(distribution)) / len(values)
    return np.abs(observed.cumsum() - distribution.cumsum()).max()


@pytest.mark.parametrize("pool", SETTINGS, ids=lambda p: f"{p.refresh_rate}-{p.sampled_heads_per_cell}")
def test_simulation_agrees_with_the_closed_form(pool):
    steps = 300
    runs = [study.simulate(pool, steps, seed) for seed in range(6)]
    assert distance(np.concatenate([run.age for run in runs]), study.age_distribution(pool, steps)) < 0.03
    updates = np.concatenate([run.updates for run in runs])
    # all heads of a noise level are sampled in the same steps, so there are only 6 × 4 independent counts
    assert distance(updates, study.update_distribution(pool, steps)) < 0.2
    assert updates.mean() == pytest.approx(study.mean_updates(pool, steps), rel=0.05)
    assert study.age_distribution(pool, steps).sum() == pytest.approx(1)
    assert mean_of(study.update_distribution(pool, steps)) == pytest.approx(study.mean_updates(pool, steps))


@pytest.mark.parametrize("pool", [PoolSettings(0.01, 1), PoolSettings(0.05, 4)])
def test_long_runs_reach_the_steady_state(pool):
    untrained = study.untrained_fraction(pool)
    geometric = untrained * (1 - untrained) ** np.arange(200)
    assert study.update_distribution(pool, 2000)[:200] == pytest.approx(geometric, abs=1e-8)
    assert mean_of(study.age_distribution(pool, 2000)) == pytest.approx(1 / pool.refresh_rate - 1, rel=1e-6)


def test_values_at_the_settings_of_the_paper():
    assert study.updates_per_lifetime(PoolSettings()) == pytest.approx(6.25)
    assert study.updates_per_lifetime(PoolSettings(sampled_heads_per_cell=4)) == pytest.approx(25)
    assert study.updates_per_lifetime(PoolSettings(refresh_rate=0)) == float("inf")
    assert study.untrained_fraction(PoolSettings()) == pytest.approx(0.01 / (0.01 + 0.99 / 16))


def test_a_real_pool_agrees_with_the_closed_form():
    settings, steps = PoolSettings(refresh_rate=0.05, sampled_heads_per_cell=2, cells=12), 120
    generator = torch.Generator().manual_seed(0)
    pool = DiscriminatorPool(lambda channels: nn.Conv2d(channels, 1, 1), (2,) * 4, generator)
    for _ in range(steps):
        panel = pool.sample(int(torch.randint(4, (), generator=generator)), settings.sampled_heads_per_cell)
        gradients = [torch.zeros_like(params) for params in panel.parameters()]
        pool.step(panel, gradients, torch.zeros(panel.indices.shape), learning_rate=0.0)
        pool.refresh(settings.refresh_rate)
    counts = study.count_heads(pool.stats(), settings, steps)
    assert distance(counts.age, study.age_distribution(settings, steps)) < 0.1
    assert counts.updates.mean() == pytest.approx(study.mean_updates(settings, steps), rel=0.25)


@pytest.mark.parametrize(("name", "value"), [("refresh_rate", 1.5), ("sampled_heads_per_cell", 5)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PoolSettings(**{name: value})
