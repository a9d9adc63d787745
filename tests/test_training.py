"""What the stages of training have in common, and what they draw."""

import pytest
import torch

from nitro_lab.mini.judge import Judge
from nitro_lab.mini.train_judge import COPIES_SHARE, draw_counts, judge_loss
from nitro_lab.mini.train_teacher import EMPTY_SHARE, PARTIAL_SHARE, draw_captions
from nitro_lab.mini.training import WARM_UP, plateau_rate
from nitro_lab.mini.world import FACTORS, all_scenes, caption, draw_scenes
from nitro_lab.randomness import seeded


def test_rate_warms_up_stays_and_falls():
    rates = [plateau_rate(2.0, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / WARM_UP)
    assert rates[WARM_UP:600] == [2.0] * (600 - WARM_UP)
    assert rates[800] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 / 400)


def test_seeded_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    first, second = (seeded(4, lambda: torch.randn(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


def test_shares_of_empty_partial_and_whole_captions():
    generator = torch.Generator().manual_seed(0)
    scenes = draw_scenes(all_scenes(), 4000, generator)
    captions = draw_captions(scenes, generator)
    empty = sum(text == "" for text in captions) / 4000
    whole = sum(text == caption(scene) for text, scene in zip(captions, scenes, strict=True)) / 4000
    assert empty == pytest.approx(EMPTY_SHARE, abs=0.02)
    assert whole == pytest.approx(1 - EMPTY_SHARE - PARTIAL_SHARE, abs=0.03)


def test_shares_of_copies():
    counts = draw_counts(4000, torch.Generator().manual_seed(0))
    assert (counts == 1).double().mean().item() == pytest.approx(1 - COPIES_SHARE, abs=0.03)
    assert counts.unique().tolist() == [1, 2, 3]


def test_size_and_place_are_not_asked_of_pictures_with_copies():
    scenes = draw_scenes(all_scenes(), 8, torch.Generator().manual_seed(0))
    counts = torch.tensor([1, 1, 1, 1, 2, 2, 3, 3])
    logits, _ = seeded(0, Judge).eval()(torch.zeros(8, 3, 64, 64))
    loss = judge_loss(logits, scenes, counts)
    other = scenes.clone()
    for name in ("size", "place"):
        column = list(FACTORS).index(name)
        other[4:, column] = (other[4:, column] + 1) % len(FACTORS[name])
    assert torch.equal(judge_loss(logits, other, counts), loss)
    other[0, 0] = 1 - other[0, 0]
    assert not torch.equal(judge_loss(logits, other, counts), loss)
