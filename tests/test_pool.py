"""The pool: sizes, randomness, statistics, errors, and heads that cannot be vectorized."""

from itertools import product

import numpy as np
import pytest
import torch
from small_pool import CHANNELS, MeanHead, make_pool, train_step
from torch import nn

from nitro_lab.discriminators.pool import DiscriminatorPool


def test_paper_pool_has_480_heads_and_no_parameters_that_another_optimizer_could_train():
    state = torch.get_rng_state()
    pool = DiscriminatorPool(MeanHead, [4] * 10, torch.Generator())
    assert pool.shape == (4, 3, 10, 4)
    assert list(pool.parameters()) == []
    assert pool.head_sizes == [5] * 10
    assert pool.num_parameters == 480 * 5
    assert set(pool.stats()) == {"age", "updates", "created", "logit_gap"}
    for values in pool.stats().values():
        assert values.shape == pool.shape
        values[:] = 7  # a copy
    assert pool.updates.sum() == pool.created.sum() == pool.logit_gap.sum() == 0
    pool.refresh(0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_new_heads_are_initialized_by_their_architecture():
    pool = make_pool(heads_per_cell=200)
    params, exp_avg, exp_avg_sq = pool.level_state(1)
    bound = 1 / CHANNELS[1] ** 0.5  # nn.Linear samples uniformly between ± this
    assert 0.98 * bound < params.abs().max() <= bound
    assert params.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert len(params.flatten(0, 2).unique(dim=0)) == 800
    assert exp_avg.count_nonzero() == exp_avg_sq.count_nonzero() == 0


def test_sample_is_uniform_without_replacement():
    pool = make_pool()
    counts = np.zeros((2, 2, 3))
    for _ in range(300):
        panel = pool.sample(1, heads_per_cell=2)
        assert panel.indices.shape == (2, 2, 2)
        assert (panel.indices[..., 0] != panel.indices[..., 1]).all()
        for view, level in product(range(2), range(2)):
            counts[view, level, panel.indices[view, level].numpy()] += 1
    assert np.abs(counts - 200).max() < 45  # five standard deviations


def test_all_heads_is_in_order_and_uses_no_randomness():
    pool = make_pool()
    state = pool.generator.get_state()
    panel = pool.all_heads(1)
    assert panel.indices.tolist() == [[[0, 1, 2]] * 2] * 2
    expected = [pool.level_state(level)[0][1, view] for view in range(2) for level in range(2)]
    assert all(map(torch.equal, panel.parameters(), expected))
    assert torch.equal(pool.generator.get_state(), state)


def test_refresh_is_uniform_and_its_rate_is_right_on_average():
    pool = make_pool(views=3, heads_per_cell=4)  # 48 heads
    counts, numbers = np.zeros(pool.shape), []
    for _ in range(400):
        refreshed = pool.refresh(0.05)
        assert len(refreshed.unique(dim=0)) == len(refreshed)
        np.add.at(counts, tuple(refreshed.T.numpy()), 1)
        numbers.append(len(refreshed))
    assert set(numbers) == {2, 3}
    assert np.mean(numbers) == pytest.approx(2.4, abs=0.12)  # five standard deviations
    assert np.abs(counts - 20).max() < 25
    assert pool.refresh(0).shape == (0, 4)
    assert len(pool.refresh(1)) == 48


def train(pool: DiscriminatorPool, generator: torch.Generator, steps: int = 5) -> dict[str, torch.Tensor]:
    for step in range(steps):
        train_step(pool, generator, step % 2)
        pool.refresh(0.1)
    return pool.state_dict()


def test_same_seed_gives_the_same_bits_and_a_state_dict_restores_a_pool():
    pool, again, other = make_pool(seed=3), make_pool(seed=3), make_pool(seed=4)
    generators = [torch.Generator().manual_seed(1) for _ in range(3)]
    first, second, third = map(train, (pool, again, other), generators)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(first["params0"], third["params0"])
    other.load_state_dict(first)
    other.generator.set_state(pool.generator.get_state())
    first, third = map(train, (pool, other), generators[1:])
    assert first.keys() == third.keys()
    assert all(torch.equal(value, third[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda pool: pool.sample(-1), "noise_level.*-1.*0.*1"),
        (lambda pool: pool.all_heads(2), "noise_level.*2.*0.*1"),
        (lambda pool: pool.sample(0, 0), "heads_per_cell.*0.*1.*3"),
        (lambda pool: pool.sample(0, 4), "heads_per_cell.*4.*1.*3"),
        (lambda pool: pool.refresh(-0.1), r"rate.*-0\.1.*0.*1"),
        (lambda pool: pool.refresh(1.1), r"rate.*1\.1.*0.*1"),
        (lambda pool: pool.refresh(float("nan")), "rate.*nan.*0.*1"),
    ],
)
def test_impossible_arguments_are_refused(call, named):
    with pytest.raises(ValueError, match=named):
        call(make_pool())


class ItemHead(MeanHead):
    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.linear.bias.item() * super().forward(feature)


@pytest.mark.parametrize(
    ("head", "name"),
    [(ItemHead, "ItemHead"), (lambda channels: nn.Sequential(MeanHead(channels), nn.BatchNorm1d(1)), "Sequential")],
)
def test_heads_that_vmap_cannot_run_are_named_and_run_in_a_loop(head, name):
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(TypeError, match=rf"(?s){name}.*vectorize=False") as error:
        train_step(make_pool(head), generator)
    assert isinstance(error.value.__cause__, RuntimeError)
    pool = make_pool(head, vectorize=False)
    *_, gaps = train_step(pool, generator)
    assert gaps.isfinite().all()
    assert pool.updates.sum() == 4
    with pytest.raises(RuntimeError, match="7x1"):  # a head that fails by itself raises its own error
        train_step(make_pool(lambda channels: nn.Linear(7, 1)), generator)
