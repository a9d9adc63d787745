"""The pool: its size, chance, lives and errors, and heads that cannot be vectorised."""

import copy
from itertools import product

import numpy as np
import pytest
import torch
from small_pool import BETAS, CHANNELS, DECAY, RATE, MeanHead, make_pool, stored, train_step
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from nitro_lab.pool import DiscriminatorPool


def test_the_papers_pool_has_480_heads():
    pool = DiscriminatorPool(MeanHead, [4] * 10, torch.Generator())
    assert pool.shape == (4, 3, 10, 4)
    assert sum(len(pool.state(level)[0]) for level in range(10)) == 480
    assert {values.shape for values in pool.census().values()} == {(4, 3, 10, 4)}
    assert list(pool.census()) == ["age", "updates", "born", "margin"]


def test_new_heads_are_initialised_as_the_architecture_does():
    pool = make_pool(slots=200)
    weights, first, second = pool.state(1)
    bound = 1 / CHANNELS[1] ** 0.5  # nn.Linear draws evenly between ± this
    assert weights.shape == (800, CHANNELS[1] + 1)
    assert 0.98 * bound < weights.abs().max() <= bound
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert len(weights.unique(dim=0)) == 800
    assert first.count_nonzero() == second.count_nonzero() == 0


def test_making_a_pool_leaves_torchs_own_generator_alone():
    before = torch.get_rng_state()
    make_pool().refresh(0.5)
    assert torch.equal(torch.get_rng_state(), before)


def test_draw_takes_different_slots_evenly_and_from_its_noise_level():
    pool = make_pool()
    counts = np.zeros((2, 2, 3))
    for _ in range(300):
        panel = pool.draw(1, per_cell=2)
        assert panel.slots.shape == (2, 2, 2)
        assert (panel.slots[..., 0] != panel.slots[..., 1]).all()
        for view, level in product(range(2), range(2)):
            counts[view, level, panel.slots[view, level].numpy()] += 1
    assert np.abs(counts - 200).max() < 45  # five standard deviations
    panel = pool.draw(1, per_cell=3)
    for view, level in product(range(2), range(2)):
        for place, weights in zip(panel.slots[view, level].tolist(), panel.weights[view][level], strict=True):
            assert torch.equal(weights, stored(pool, (1, view, level, place))[0])


def test_only_the_drawn_rows_change():
    pool = make_pool()
    before = copy.deepcopy(pool.state_dict())
    panel, *_ = train_step(pool, torch.Generator().manual_seed(1), noise_level=1)
    drawn = {(1, v, level, int(panel.slots[v, level, 0])) for v, level in product(range(2), range(2))}
    old = make_pool()
    old.load_state_dict(before)
    for place in product(*map(range, pool.shape)):
        same = [torch.equal(a, b) for a, b in zip(stored(pool, place), stored(old, place), strict=True)]
        assert same == [place not in drawn] * 3, place
    assert pool.updates.sum() == len(drawn)


def test_refresh_starts_heads_anew_and_touches_nothing_else():
    pool, generator = make_pool(), torch.Generator().manual_seed(1)
    for step in range(8):
        train_step(pool, generator, step % 2, per_cell=3)
    old = copy.deepcopy(pool)
    gone = set(map(tuple, pool.refresh(0.25).tolist()))
    assert len(gone) == 6
    assert pool.iteration == old.iteration + 1
    for place in product(*map(range, pool.shape)):
        now, was = stored(pool, place), stored(old, place)
        life, past = ([float(p.census()[name][place]) for name in ("updates", "born", "margin")] for p in (pool, old))
        if place in gone:
            assert not torch.equal(now[0], was[0])
            assert [moment.count_nonzero() for moment in now[1:]] == [0, 0]
            assert life == [0, pool.iteration, 0]
        else:
            assert all(map(torch.equal, now, was))
            assert life == past


def test_refresh_throws_out_the_share_that_was_asked_for_and_everybody_alike():
    pool = make_pool(views=3, slots=4)  # 48 heads
    counts, numbers = np.zeros(pool.shape), []
    for _ in range(400):
        gone = pool.refresh(0.05)
        assert len(gone.unique(dim=0)) == len(gone)
        np.add.at(counts, tuple(gone.T.numpy()), 1)
        numbers.append(len(gone))
    assert set(numbers) == {2, 3}
    assert np.mean(numbers) == pytest.approx(2.4, abs=0.12)  # five standard deviations
    assert np.abs(counts - 20).max() < 25
    assert pool.refresh(0).shape == (0, 4)
    assert len(pool.refresh(1)) == 48


def test_same_seed_same_bits():
    pools = [make_pool(seed=3), make_pool(seed=3), make_pool(seed=4)]
    for pool in pools:
        generator = torch.Generator().manual_seed(1)
        for step in range(5):
            train_step(pool, generator, step % 2)
            pool.refresh(0.1)
    first, again, other = (pool.state_dict() for pool in pools)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["weights0"], other["weights0"])


def test_state_dict_brings_a_pool_back():
    pool, generator = make_pool(), torch.Generator().manual_seed(1)
    for step in range(5):
        train_step(pool, generator, step % 2)
        pool.refresh(0.1)
    other = make_pool(seed=9)
    other.load_state_dict(pool.state_dict())
    other.generator.set_state(pool.generator.get_state())
    state = generator.get_state()
    for copied in (pool, other):
        generator.set_state(state)
        train_step(copied, generator)
        copied.refresh(0.3)
    assert pool.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in pool.state_dict().items())
    assert all(np.array_equal(value, other.census()[key]) for key, value in pool.census().items())


def test_pool_has_nothing_for_a_common_optimiser_to_train():
    assert list(make_pool().parameters()) == []


def test_census_is_a_copy():
    pool = make_pool()
    pool.census()["updates"][:] = 7
    assert pool.updates.sum() == 0


@pytest.mark.parametrize("noise_level", [-1, 2])
def test_unknown_noise_level(noise_level):
    with pytest.raises(ValueError, match=f"noise_level is {noise_level}; the pool has 0 to 1"):
        make_pool().draw(noise_level)


@pytest.mark.parametrize("per_cell", [0, 4])
def test_too_many_or_too_few_a_cell(per_cell):
    with pytest.raises(ValueError, match=f"per_cell is {per_cell}; it must be from 1 to the pool's 3 slots"):
        make_pool().draw(0, per_cell)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_refresh_of_no_share(fraction):
    pool = make_pool()
    with pytest.raises(ValueError, match=r"fraction is .*; it must be from 0 to 1"):
        pool.refresh(fraction)
    assert pool.iteration == 0


class ItemHead(MeanHead):
    """Looks at a number before it judges."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        logits = super().forward(feature)
        return logits if logits.mean().item() > 0 else 2 * logits


class BatchNormHead(MeanHead):
    """Keeps running statistics of what its own weights make of the features."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.norm(super().forward(feature))


class SpectralHead(MeanHead):
    """Updates its estimate of the largest singular value while it judges."""

    def __init__(self, channels: int):
        super().__init__(channels)
        self.linear = spectral_norm(nn.Linear(channels, 1))


@pytest.mark.parametrize(
    ("head", "operation"), [(ItemHead, "item"), (BatchNormHead, "[Bb]atch.?norm"), (SpectralHead, "vmap")]
)
def test_head_that_cannot_be_vectorised_is_named_and_runs_looped(head, operation):
    generator = torch.Generator().manual_seed(1)
    with pytest.raises(TypeError, match=rf"(?s)Heads of {head.__name__} cannot.*{operation}.*vectorize=False") as error:
        train_step(make_pool(head), generator)
    assert isinstance(error.value.__cause__, RuntimeError)
    pool = make_pool(head, vectorize=False)
    *_, margins = train_step(pool, generator)
    assert margins.isfinite().all()
    assert pool.updates.sum() == 4


def test_moments_that_are_kept_go_on_with_their_step_count():
    """As when a module's weights are drawn anew and its optimiser knows nothing of it."""
    pool, generator = make_pool(refresh_clears=False), torch.Generator().manual_seed(1)
    for _ in range(4):
        train_step(pool, generator, 0, per_cell=3)
    before = [moment.clone() for moment in pool.state(0)[1:]]
    pool.refresh(1.0)
    assert all(map(torch.equal, pool.state(0)[1:], before))
    assert pool.updates.sum() == 0
    assert pool.moment_steps()[0].unique().tolist() == [4]
    weight = nn.Parameter(stored(pool, (0, 0, 0, 0))[0].clone())
    optimizer = torch.optim.AdamW([weight], RATE, BETAS, weight_decay=DECAY)
    first, second = (moment[pool.row(0, 0, torch.tensor(0))].clone() for moment in pool.state(0)[1:])
    optimizer.state[weight] = {"step": torch.tensor(4.0), "exp_avg": first, "exp_avg_sq": second}
    panel = pool.draw(0, 3)
    gradients = [torch.randn(leaf.shape, generator=generator) for leaf in panel.leaves()]
    weight.grad = gradients[0][panel.slots[0, 0].tolist().index(0)]
    optimizer.step()
    panel.learn(gradients, RATE, BETAS, DECAY)
    torch.testing.assert_close(stored(pool, (0, 0, 0, 0))[0], weight.detach(), rtol=1e-5, atol=1e-7)


def test_kept_moments_are_in_the_state_dict_and_cleared_ones_leave_it_as_it_was():
    assert "inherited" in make_pool(refresh_clears=False).state_dict()
    assert "inherited" not in make_pool().state_dict()
