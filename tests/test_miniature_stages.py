"""What the stages of `tools.miniature` share, and what they sample."""

import pytest
import torch

from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.world import FACTORS, all_scenes, caption, sample_scenes
from nitro_lab.randomness import seeded
from tools.miniature import stages
from tools.miniature.optimization import WARMUP_STEPS, learning_rate_at


def test_learning_rate_warms_up_stays_and_decays():
    rates = [learning_rate_at(2.0, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(2.0 / WARMUP_STEPS)
    assert rates[WARMUP_STEPS:600] == [2.0] * (600 - WARMUP_STEPS)
    assert rates[800] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(2.0 / 400)


def test_fractions_of_empty_and_complete_captions_and_of_copies():
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(all_scenes(), 4000, generator)
    captions = stages.sample_captions(scenes, generator)
    complete = sum(text == caption(scene) for text, scene in zip(captions, scenes, strict=True)) / 4000
    assert captions.count("") / 4000 == pytest.approx(stages.EMPTY_PROB, abs=0.02)
    assert complete == pytest.approx(1 - stages.EMPTY_PROB - stages.PARTIAL_PROB, abs=0.03)
    counts = stages.sample_counts(4000, generator)
    assert (counts == 1).double().mean().item() == pytest.approx(1 - stages.COPIES_PROB, abs=0.03)
    assert counts.unique().tolist() == [1, 2, 3]


def test_size_and_place_do_not_count_in_images_with_copies():
    scenes = sample_scenes(all_scenes(), 8, torch.Generator().manual_seed(0))
    counts = torch.tensor([1, 1, 1, 1, 2, 2, 3, 3])
    logits, _ = seeded(0, SceneClassifier).eval()(torch.zeros(8, 3, 64, 64))
    loss = stages.classifier_loss(logits, scenes, counts)
    other = scenes.clone()
    for name in ("size", "place"):
        column = list(FACTORS).index(name)
        other[4:, column] = (other[4:, column] + 1) % len(FACTORS[name])
    assert torch.equal(stages.classifier_loss(logits, other, counts), loss)
    other[0, 0] = 1 - other[0, 0]
    assert not torch.equal(stages.classifier_loss(logits, other, counts), loss)


def test_seeded_leaves_the_global_generator_unchanged():
    before = torch.random.get_rng_state()
    first, second = (seeded(4, lambda: torch.randn(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())
