"""The pool: sizes, randomness, statistics, errors, and heads that cannot be vectorized."""

from itertools import product

import numpy as np
import pytest
import torch
from small_pool import CHANNELS, MeanHead, make_pool, train_step
from torch import nn
from torch.func import functional_call

from nitro_lab.discriminators.pool import DiscriminatorPool, ViewFeatures


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


class FrozenHead(nn.Module):
    """A trained layer on a frozen random projection of shuffled channels; all heads share the kernel."""

    def __init__(self, channels: int):
        super().__init__()
        self.project = nn.Conv2d(channels, 4, 1).requires_grad_(False)
        self.linear = nn.Linear(4, 1)
        self.register_buffer("order", torch.randperm(channels))
        self.register_buffer("scale", torch.randn(()))
        self.register_buffer("kernel", torch.ones(4, 1, 2, 2) / 4)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        projected = self.project(feature[:, self.order]) * self.scale
        return self.linear(nn.functional.conv2d(projected, self.kernel, groups=4).relu().mean((2, 3)))


def frozen_tensors(pool: DiscriminatorPool, level: int, row: torch.Tensor) -> dict[str, torch.Tensor]:
    """One head's constants (Q,) by name."""
    like = {name: p for name, p in FrozenHead(CHANNELS[level]).named_parameters() if not p.requires_grad}
    like |= {"order": torch.empty(CHANNELS[level], dtype=torch.long), "scale": torch.empty(())}
    parts = row.split([value.numel() for value in like.values()])
    return {n: part.view_as(value).to(value.dtype) for part, (n, value) in zip(parts, like.items(), strict=True)}


def test_frozen_parameters_and_random_buffers_are_each_heads_own_and_are_not_trained():
    pool, generator = make_pool(FrozenHead), torch.Generator().manual_seed(1)
    assert pool.head_sizes == [5, 5]
    before = [pool.constants(level).clone() for level in range(2)]
    for level, rows in enumerate(before):
        assert len(rows.flatten(0, 2).unique(dim=0)) == 12
        heads = [frozen_tensors(pool, level, row) for row in rows.flatten(0, 2)]
        assert all(head["order"].sort().values.tolist() == list(range(CHANNELS[level])) for head in heads)
    params = pool.level_state(0)[0].clone()
    panel, (view, _), *_ = train_step(pool, generator, heads_per_cell=3)
    assert all(torch.equal(pool.constants(level), rows) for level, rows in enumerate(before))
    assert (pool.level_state(0)[0][0] != params[0]).any(-1).all()
    for level, logits in enumerate(panel.score([view] * 2)[:2]):
        for index, row, values in zip(panel.indices[0, level], panel.parameters()[level], logits, strict=True):
            tensors = frozen_tensors(pool, level, before[level][0, 0, index])
            tensors |= {"linear.weight": row[None, :4], "linear.bias": row[4:]}
            expected = functional_call(FrozenHead(CHANNELS[level]), tensors, (view.maps[level],)).flatten()
            torch.testing.assert_close(values, expected)
    refreshed = pool.refresh(0.25)
    changed = torch.stack([(pool.constants(level) != rows).any(-1) for level, rows in enumerate(before)], 2)
    assert sorted(changed.nonzero().tolist()) == sorted(refreshed.tolist())
    restored = make_pool(FrozenHead, seed=1)
    restored.load_state_dict(pool.state_dict())
    one_by_one = make_pool(FrozenHead, seed=2, vectorize=False)
    one_by_one.load_state_dict(pool.state_dict())
    scores, *others = (p.all_heads(0).score([view, view]) for p in (pool, restored, one_by_one))
    assert all(map(torch.equal, scores, others[0]))
    torch.testing.assert_close(scores, others[1])


class ContextHead(MeanHead):
    """Three logits an image: t*, view and level."""

    def forward(self, feature: torch.Tensor, t_star: torch.Tensor, view: int, level: int) -> torch.Tensor:
        zero = 0 * super().forward(feature)
        return torch.cat([zero + t_star[:, None], zero + view, zero + level], 1)


@pytest.mark.parametrize("vectorize", [True, False])
def test_heads_get_what_they_ask_for_by_name(vectorize):
    panel = make_pool(ContextHead, vectorize=vectorize).sample(0, 2)
    maps, t_star = [torch.ones(2, width, 4, 4) for width in CHANNELS], torch.tensor([10, 500])
    views = [ViewFeatures(maps, t_star=t_star, view=view, levels=(9, 4)) for view in range(2)]
    for logits, (view, level) in zip(panel.score(views), product(range(2), (9, 4)), strict=True):
        assert logits.view(2, 2, 3).tolist() == [[[10, view, level], [500, view, level]]] * 2
    with pytest.raises(ValueError, match="t_star"):
        panel.score([ViewFeatures(maps), ViewFeatures(maps)])


class JointHead(nn.Module):
    all_levels = True

    def __init__(self, channels: list[int]):
        super().__init__()
        self.heads = nn.ModuleList(map(MeanHead, channels))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([head(feature) for head, feature in zip(self.heads, features, strict=True)], 1)


@pytest.mark.parametrize("vectorize", [True, False])
def test_heads_of_all_levels_see_all_of_them(vectorize):
    pool, generator = make_pool(JointHead, channels=[list(CHANNELS)], vectorize=vectorize), torch.Generator()
    assert pool.shape == (2, 2, 1, 3)
    assert pool.head_sizes == [sum(CHANNELS) + 2]
    views = [ViewFeatures([[torch.randn(2, c, 4, 4, generator=generator) for c in CHANNELS]]) for _ in range(2)]
    panel = pool.sample(1, 2)
    for view, logits, params in zip(views, panel.score(views), panel.parameters(), strict=True):
        for values, row in zip(logits.view(2, 2, 2), params, strict=True):
            start = 0
            for level, feature in enumerate(view.maps[0]):
                weight, bias = row[start : start + CHANNELS[level]], row[start + CHANNELS[level]]
                torch.testing.assert_close(values[:, level], feature.mean((2, 3)) @ weight + bias)
                start += CHANNELS[level] + 1
