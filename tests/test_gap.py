"""The classifier two-sample test."""

import pytest
import torch
import torch.nn.functional as F

from nitro_lab.mini.render import render
from nitro_lab.mini.world import sample_scenes, split_scenes
from tools.miniature.gap import two_sample_accuracy


def test_blur_is_detected_and_samples_of_one_distribution_are_not_distinguished():
    generator = torch.Generator().manual_seed(0)
    training, held_out = split_scenes()
    sets = (training, training, held_out, held_out)
    a, b, c, d = (render(sample_scenes(scenes, 160, generator), generator) for scenes in sets)
    blurred_b, blurred_d = (F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) for x in (b, d))
    assert two_sample_accuracy((a, blurred_b), (c, blurred_d), steps=120) > 0.9
    assert two_sample_accuracy((a, b), (c, d), steps=60) == pytest.approx(0.5, abs=0.12)
