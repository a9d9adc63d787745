"""Lives of critics: the closed form, the dice, and the pool itself agree."""

import numpy as np
import pytest
import torch
from torch import nn

from nitro_lab.pool import DiscriminatorPool
from nitro_lab.studies import demography
from nitro_lab.studies.demography import Rules

SETTINGS = [Rules(refresh, per_cell) for refresh in (0.0, 0.001, 0.01, 0.05) for per_cell in (1, 2, 4)]
each_setting = pytest.mark.parametrize("rules", SETTINGS, ids=lambda r: f"{r.refresh}-{r.per_cell}")


def means(shares: np.ndarray) -> float:
    return float(shares @ np.arange(len(shares)))


@each_setting
def test_dice_agree_with_the_closed_form(rules):
    steps = 300
    alive = [demography.simulate(rules, steps, seed) for seed in range(6)]
    age = np.concatenate([population.age for population in alive])
    updated = np.concatenate([population.updates for population in alive])
    shares = demography.ages(rules, steps), demography.updates(rules, steps)
    for values, share in zip((age, updated), shares, strict=True):
        spread = np.abs(demography.share_at_least(values, steps) - demography.at_least(share)).max()
        # A noise level is drawn for all of its heads at once, so 24 draws of 300 steps stand behind the updates.
        assert spread < (0.03 if values is age else 0.2)
    assert updated.mean() == pytest.approx(demography.mean_updates(rules, steps), rel=0.05)


@each_setting
def test_shares_add_up_and_their_mean_is_the_formula(rules):
    for share in (demography.ages(rules, 200), demography.updates(rules, 200)):
        assert share.sum() == pytest.approx(1)
        assert share.min() >= 0
    assert means(demography.updates(rules, 200)) == pytest.approx(demography.mean_updates(rules, 200))


@pytest.mark.parametrize("rules", [Rules(0.01, 1), Rules(0.05, 4)])
def test_long_runs_reach_the_steady_state(rules):
    updated = demography.updates(rules, 2000)
    idle = demography.never_updated(rules)
    assert updated[:200] == pytest.approx(idle * (1 - idle) ** np.arange(200), abs=1e-8)  # geometric
    assert means(demography.ages(rules, 2000)) == pytest.approx((1 - rules.refresh) / rules.refresh, rel=1e-6)


def test_numbers_of_the_paper():
    assert demography.updates_in_a_life(Rules()) == pytest.approx(6.25)
    assert demography.updates_in_a_life(Rules(per_cell=4)) == pytest.approx(25)
    assert demography.updates_in_a_life(Rules(refresh=0)) == float("inf")
    assert demography.never_updated(Rules()) == pytest.approx(0.01 / (0.01 + 0.99 / 16))


def test_without_refresh_all_are_as_old_as_the_pool():
    rules = Rules(refresh=0, per_cell=4)
    assert demography.ages(rules, 50)[-1] == 1
    assert (demography.simulate(rules, 50).age == 50).all()
    assert demography.simulate(rules, 50).updates.sum() == 50 * 120


def test_the_pool_plays_by_the_same_rules():
    rules, steps = Rules(refresh=0.05, per_cell=2, cells=12), 120
    generator = torch.Generator().manual_seed(0)
    pool = DiscriminatorPool(lambda channels: nn.Conv2d(channels, 1, 1), (2,) * 4, generator)
    for _ in range(steps):
        panel = pool.draw(int(torch.randint(4, (), generator=generator)), rules.per_cell)
        pool.note(panel, torch.zeros(panel.slots.shape))
        pool.refresh(rules.refresh)
    alive = demography.count(pool.census(), rules, steps)
    age = demography.share_at_least(alive.age, steps)
    assert np.abs(age - demography.at_least(demography.ages(rules, steps))).max() < 0.1
    assert alive.updates.mean() == pytest.approx(demography.mean_updates(rules, steps), rel=0.25)


def test_impossible_rules_are_refused():
    with pytest.raises(ValueError, match=r"refresh is 1\.5"):
        Rules(refresh=1.5)
    with pytest.raises(ValueError, match="per_cell is 5"):
        Rules(per_cell=5)
