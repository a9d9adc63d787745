"""Selection policies: the default's random stream, orders against numpy's, and answers that are refused."""

import numpy as np
import pytest
import torch
from small_pool import make_pool, train_step

from nitro_lab.discriminators import selection


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_default_random_stream_is_that_of_plain_torch():
    pool, generator = make_pool(), seeded_generator()
    generator.set_state(pool.generator.get_state())
    sampled = pool.sample(1, 2).indices
    assert torch.equal(sampled, torch.rand(2, 2, 3, generator=generator).argsort(-1)[..., :2])
    refreshed = pool.refresh(0.25)
    rounding = torch.rand(1, generator=generator).item()
    order = torch.randperm(24, generator=generator)[: int(6 + rounding)]
    assert torch.equal(refreshed, torch.stack(torch.unravel_index(order, pool.shape), 1))


@pytest.mark.parametrize(
    ("policy", "key"),
    [
        (selection.refresh_oldest, lambda stats: -stats["age"]),
        (selection.refresh_weakest, lambda stats: np.where(stats["updates"] > 0, stats["logit_gap"], np.inf)),
        (selection.refresh_strongest, lambda stats: np.where(stats["updates"] > 0, -stats["logit_gap"], np.inf)),
    ],
)
def test_refresh_policies_select_the_lowest_keys_and_break_ties_at_random(policy, key):
    shape, generator = (2, 2, 2, 3), seeded_generator(3)
    stats = {name: torch.randint(5, shape, generator=generator) for name in ("age", "updates")}
    stats["logit_gap"] = torch.randn(shape, generator=generator)
    keys = key({name: values.numpy() for name, values in stats.items()})
    refreshed = policy(stats, 7, seeded_generator()).numpy()
    assert sorted(keys[tuple(refreshed.T)]) == sorted(keys.flatten())[:7]
    assert len({tuple(head) for head in refreshed}) == 7
    even = {name: torch.zeros(1, 1, 1, 4) for name in stats}
    assert {int(policy(even, 1, seeded_generator(seed))[0, 3]) for seed in range(40)} == {0, 1, 2, 3}


def test_least_updated_trains_all_heads_equally_often():
    stats, even = ({"updates": torch.tensor([[cell]])} for cell in ([3, 0, 7, 1], [2**40] * 4))
    assert selection.sample_least_updated(stats, 2, seeded_generator()).tolist() == [[[1, 3]]]
    sampled = {int(selection.sample_least_updated(even, 1, seeded_generator(seed))) for seed in range(40)}
    assert sampled == {0, 1, 2, 3}
    pool, generator = make_pool(sample_heads=selection.sample_least_updated), seeded_generator(1)
    for _ in range(6):
        train_step(pool, generator, noise_level=0)
    assert pool.stats()["updates"][0].unique().tolist() == [2]


@pytest.mark.parametrize(
    ("policy", "answer", "named"),
    [
        ("sample_heads", torch.zeros(2, 2, 2), "float32"),
        ("sample_heads", torch.zeros(2, 2, 3, dtype=torch.long), r"\(2, 2, 3\).*\(2, 2, 2\)"),
        ("sample_heads", torch.tensor([0, 3]).expand(2, 2, 2), "0 to 3.*0 to 2"),
        ("sample_heads", torch.tensor([-1, 2]).expand(2, 2, 2), "-1 to 2.*0 to 2"),
        ("sample_heads", torch.tensor([1, 1]).expand(2, 2, 2), "twice"),
        ("select_refreshed", torch.zeros(12, 4), "float32"),
        ("select_refreshed", torch.zeros(5, 4, dtype=torch.long), r"\(5, 4\).*\(12, 4\)"),
        ("select_refreshed", torch.arange(48).view(12, 4), r"\[0, 1, 2, 3\].*\(2, 2, 2, 3\)"),
        ("select_refreshed", torch.zeros(12, 4, dtype=torch.long), "twice"),
    ],
)
def test_impossible_answers_are_refused(policy, answer, named):
    pool = make_pool(**{policy: lambda stats, count, generator: answer})
    with pytest.raises(ValueError, match=f"{policy}.*{named}"):
        pool.sample(0, 2) if policy == "sample_heads" else pool.refresh(0.5)
