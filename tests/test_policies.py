"""Who is drawn and who goes: the default's bits, orders against numpy's, and what no policy may answer."""

import numpy as np
import pytest
import torch
from small_pool import make_pool, train_step

from nitro_lab import policies


def random_lives(shape: tuple[int, ...] = (2, 2, 2, 3)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    lives = {name: torch.randint(5, shape, generator=generator) for name in ("age", "updates", "born")}
    return lives | {"margin": torch.randn(shape, generator=generator)}


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_default_s_random_stream_is_that_of_plain_torch():
    pool, generator = make_pool(), dice()
    generator.set_state(pool.generator.get_state())
    drawn = pool.draw(1, 2).slots
    assert torch.equal(drawn, torch.rand(2, 2, 3, generator=generator).argsort(-1)[..., :2])
    gone = pool.refresh(0.25)
    chance = torch.rand(1, generator=generator).item()
    order = torch.randperm(24, generator=generator)[: int(6 + chance)]
    assert torch.equal(gone, torch.stack(torch.unravel_index(order, pool.shape), 1))


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (policies.retire_oldest, lambda lives: -lives["age"]),
        (policies.retire_weakest, lambda lives: np.where(lives["updates"] > 0, lives["margin"], np.inf)),
        (policies.retire_strongest, lambda lives: np.where(lives["updates"] > 0, -lives["margin"], np.inf)),
    ],
)
def test_those_go_that_come_first_by_the_key(policy, key):
    lives = random_lives()
    keys = key({name: life.numpy() for name, life in lives.items()})
    gone = policy(lives, 7, dice()).numpy()
    assert sorted(keys[tuple(gone.T)]) == sorted(keys.flatten())[:7]
    assert len({tuple(head) for head in gone}) == 7


def test_chance_decides_between_equals():
    lives = {name: torch.zeros(1, 1, 1, 4) for name in ("age", "updates", "margin")}
    for policy in (policies.retire_oldest, policies.retire_weakest, policies.retire_strongest):
        assert {int(policy(lives, 1, dice(seed))[0, 3]) for seed in range(40)} == {0, 1, 2, 3}


def test_least_updated_are_drawn_first():
    lives = {"updates": torch.tensor([[[3, 0, 7, 1]]])}
    assert policies.draw_least_updated(lives, 2, dice()).tolist() == [[[1, 3]]]
    even = {"updates": torch.full((1, 1, 4), 2**40)}
    assert {int(policies.draw_least_updated(even, 1, dice(seed))) for seed in range(40)} == {0, 1, 2, 3}


def test_under_least_updated_all_learn_equally_often():
    pool, generator = make_pool(draw=policies.draw_least_updated), dice(1)
    for _ in range(6):
        train_step(pool, generator, noise_level=0)
    assert set(pool.census()["updates"][0].flatten()) == {2}


def test_a_pool_throws_out_whom_its_policy_names():
    pool, generator = make_pool(retire=policies.retire_weakest), dice(1)
    for step in range(8):
        train_step(pool, generator, step % 2, per_cell=3)
    margins = pool.census()["margin"]
    gone = pool.refresh(0.25)
    assert sorted(margins[tuple(gone.T.numpy())]) == sorted(margins.flatten())[:6]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (torch.zeros(2, 2, 2), "gave torch.float32 of shape"),
        (torch.zeros(2, 2, 3, dtype=torch.long), r"must give integers of shape \(2, 2, 2\): views, levels"),
        (torch.tensor([0, 3]).expand(2, 2, 2), "gave slots 0 to 3; there are 0 to 2"),
        (torch.tensor([1, 1]).expand(2, 2, 2), "drew a head twice"),
    ],
)
def test_draws_that_cannot_be(answer, named):
    with pytest.raises(ValueError, match=named):
        make_pool(draw=lambda lives, per_cell, generator: answer).draw(0, 2)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (torch.zeros(5, 4, dtype=torch.long), r"must give integers of shape \(12, 4\): noise level, view"),
        (torch.arange(48).view(12, 4), "a head outside the pool"),
        (torch.zeros(12, 4, dtype=torch.long), "a head twice"),
    ],
)
def test_retirements_that_cannot_be(answer, named):
    pool = make_pool(retire=lambda lives, count, generator: answer)
    with pytest.raises(ValueError, match=named):
        pool.refresh(0.5)
