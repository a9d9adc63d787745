"""The shipped judge reads what is there."""

import pytest
import torch

from nitro_lab.evaluate import caption_accuracy
from nitro_lab.mini.judge import FEATURES, Judge, load_judge
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, draw_scenes, split_scenes

COUNT = 600


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


def test_reads_the_factors_of_unseen_renders(judge):
    generator = torch.Generator().manual_seed(11)
    scenes = draw_scenes(split_scenes()[1], COUNT, generator)
    verdict = judge.look(render(scenes, generator))
    assert verdict.features.shape == (COUNT, FEATURES)
    shares = caption_accuracy(verdict.factors, scenes, tuple(FACTORS))
    assert min(shares[name] for name in FACTORS) >= 0.98, shares
    assert (verdict.counts == 1).double().mean() >= 0.97


def test_counts_copies(judge):
    generator = torch.Generator().manual_seed(12)
    scenes = draw_scenes(split_scenes()[1], COUNT, generator)
    counts = torch.arange(COUNT) % 3 + 1
    assert (judge.look(render(scenes, generator, counts)).counts == counts).double().mean() >= 0.9


def test_is_not_trained_further(judge):
    assert not any(weight.requires_grad for weight in judge.parameters())
    assert not judge.training
