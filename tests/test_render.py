"""The renderer: a pure function of its generator, with shapes of the right area, place, number and edges."""

import math

import pytest
import torch
from scipy import ndimage

from nitro_lab.mini.noise import SIZE
from nitro_lab.mini.render import (
    CENTERS,
    COLORS,
    JITTER,
    RADII,
    distance_to_shape,
    draw_background,
    place_objects,
    render,
    tones,
)
from nitro_lab.mini.world import FACTORS, all_scenes

STAR_TIP, STAR_NOTCH, RING = 1.12, 1.12 * 0.52, (0.66 + 0.36, 0.66 - 0.36)
AREAS = {  # of the figure whose radius is 1
    "circle": math.pi * 0.92**2,
    "square": 1.6**2,
    "triangle": 3 * math.sqrt(3) * 0.66**2,
    "star": 5 * STAR_TIP * STAR_NOTCH * math.sin(math.pi / 5),
    "ring": math.pi * (RING[0] ** 2 - RING[1] ** 2),
    "heart": 1.12**2 + math.pi * 0.56**2,
}


def scene_of(**values: str) -> torch.Tensor:
    """A scene (6,) with these values, and the first one of all other factors."""
    return torch.tensor([options.index(values.get(name, options[0])) for name, options in FACTORS.items()])


def seeded_render(scenes: torch.Tensor, seed: int = 0, counts: torch.Tensor | None = None) -> torch.Tensor:
    return render(scenes, torch.Generator().manual_seed(seed), counts)


def coverage(scenes: torch.Tensor, seed: int = 0, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Where the picture differs from the background alone, which is drawn from the same chance. (N, 64, 64)."""
    background = draw_background(scenes[:, -1], torch.Generator().manual_seed(seed)) * 2 - 1
    return (seeded_render(scenes, seed, counts) - background).abs().amax(1) > 1e-3


def test_every_kind_of_scene_gives_a_picture_in_range():
    scenes = all_scenes()[::16]
    pictures = seeded_render(scenes)
    assert pictures.shape == (len(scenes), 3, SIZE, SIZE)
    assert pictures.isfinite().all()
    assert pictures.min() >= -1
    assert pictures.max() <= 1


def test_pictures_are_a_pure_function_of_the_generator():
    scenes, counts = all_scenes()[::97], torch.arange(len(all_scenes()[::97])) % 3 + 1
    before = torch.get_rng_state()
    first = seeded_render(scenes, 5, counts)
    torch.rand(3)
    torch.set_rng_state(before)
    assert torch.equal(first, seeded_render(scenes, 5, counts))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("background", FACTORS["background"])
@pytest.mark.parametrize("texture", FACTORS["texture"])
def test_one_caption_has_many_pictures(texture, background):
    scene = scene_of(texture=texture, background=background, shape="circle", size="large")
    pictures = seeded_render(scene.expand(4, 6))
    assert torch.pdist(pictures.flatten(1)).min() > 0.05 * math.sqrt(pictures[0].numel())


@pytest.mark.parametrize("texture", [t for t in FACTORS["texture"] if t != "solid"])
def test_textures_use_both_tones_and_differ_from_draw_to_draw(texture):
    tone = tones(torch.full((8,), FACTORS["texture"].index(texture)), torch.Generator().manual_seed(0))
    assert tone.amin((1, 2)).max() == pytest.approx(0.5)
    assert tone.amax((1, 2)).min() == pytest.approx(1.0)
    assert torch.pdist(tone.flatten(1)).min() > 5


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_area_of_a_shape(shape):
    """Anti-aliased coverage sums to the figure's area, turned or not."""
    index = torch.full((5,), FACTORS["shape"].index(shape))
    radius = torch.tensor([10.5, 12.0, 15.5, 17.5, 16.0])
    center = torch.tensor([[0.0, 0.0], [0.3, -0.7], [2.5, 1.0], [0.0, 0.5], [-1.0, 0.2]])
    tilt = torch.tensor([0.0, 0.3, -0.2, 0.1, 0.35])[:, None, None]
    area = (0.5 - distance_to_shape(index, center, radius, tilt)).clamp(0, 1).sum((1, 2))
    torch.testing.assert_close(area / radius**2, torch.full((5,), AREAS[shape]), rtol=0.03, atol=0)


def test_edges_are_anti_aliased():
    """A disc's edge has about one pixel of partial coverage for each pixel of its circumference."""
    scene = scene_of(size="large", color="white", shape="circle", place="center", background="night").expand(16, 6)
    background = draw_background(scene[:, -1], torch.Generator().manual_seed(0))
    picture = (seeded_render(scene) + 1) / 2
    white = torch.tensor(COLORS["white"])[:, None, None]
    share = ((picture - background) / (white - background))[:, 0]
    assert share.min() >= -1e-4
    assert share.max() <= 1 + 1e-4
    partial = ((share > 0.02) & (share < 0.98)).sum((1, 2)).double()
    radius = ((share > 0.5).sum((1, 2)) / math.pi).sqrt()
    assert ((partial / (2 * math.pi * radius)) > 0.9).all()
    assert ((partial / (2 * math.pi * radius)) < 1.6).all()


@pytest.mark.parametrize("size", FACTORS["size"])
@pytest.mark.parametrize("place", FACTORS["place"])
def test_objects_are_where_and_as_large_as_the_caption_says(place, size):
    scene = scene_of(size=size, place=place, shape="circle").expand(32, 6)
    masks = coverage(scene)
    ticks = torch.arange(SIZE) - (SIZE - 1) / 2
    area = masks.sum((1, 2))
    x, y = ((masks * axis).sum((1, 2)) / area for axis in (ticks, ticks[:, None]))
    expected_x, expected_y = CENTERS[place]
    assert (x - expected_x).abs().max() < JITTER + 0.5
    assert (y - expected_y).abs().max() < JITTER + 0.5
    assert x.std() > 0.5
    assert y.std() > 0.5
    radius = (area / math.pi).sqrt() / 0.92
    low, high = RADII[size]
    assert radius.min() > low - 0.2
    assert radius.max() < high + 1.2  # the mask holds the pixels that are covered in part


@pytest.mark.parametrize("count", [1, 2, 3])
def test_number_of_objects(count):
    scene = scene_of(size="small", shape="circle", place="center").expand(24, 6)
    masks = coverage(scene, counts=torch.full((24,), count))
    assert [ndimage.label(mask.numpy())[1] for mask in masks] == [count] * 24


def test_copies_rarely_touch_whatever_the_scene():
    size, place = torch.cartesian_prod(torch.arange(2), torch.arange(5)).repeat(20, 1).unbind(1)
    centers, radii = place_objects(place, size, 3, torch.Generator().manual_seed(0))
    pairs = torch.tensor([[0, 1], [0, 2], [1, 2]])
    gap = (centers[:, pairs[:, 0]] - centers[:, pairs[:, 1]]).norm(dim=2) - radii[:, pairs].sum(2)
    assert (gap.amin(1) > 0).double().mean() > 0.95


def test_counts_of_a_batch_may_differ():
    scene = scene_of(size="small", shape="circle", place="left").expand(9, 6)
    counts = torch.tensor([1, 2, 3] * 3)
    found = [ndimage.label(mask.numpy())[1] for mask in coverage(scene, 3, counts)]
    assert found == counts.tolist()
