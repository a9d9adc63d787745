"""The fresh network tells apart what differs, and nothing else."""

import pytest
import torch
import torch.nn.functional as F

from nitro_lab.mini.render import render
from nitro_lab.mini.world import draw_scenes, split_scenes
from nitro_lab.studies.gap import tell_apart

COUNT = 160


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    """Four sets of renders: two of training captions, two of held-out ones."""
    generator = torch.Generator().manual_seed(0)
    training, held_out = split_scenes()
    return [
        render(draw_scenes(scenes, COUNT, generator), generator) for scenes in (training, training, held_out, held_out)
    ]


def blurred(images: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def test_blur_is_seen(pictures):
    a, b, c, d = pictures
    assert tell_apart((a, blurred(b)), (c, blurred(d)), steps=120) > 0.9


def test_equal_sets_are_not_told_apart(pictures):
    a, b, c, d = pictures
    assert tell_apart((a, b), (c, d), steps=60) == pytest.approx(0.5, abs=0.12)


def test_same_seed_same_answer(pictures):
    a, b, c, d = pictures
    once, again = (tell_apart((a, b), (c, d), steps=5, seed=3) for _ in range(2))
    assert once == again
