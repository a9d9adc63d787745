"""The renderer: a pure function of its generator; area, position and number of the objects."""

import math

import pytest
import torch
from scipy import ndimage

from nitro_lab.mini.render import SIZE, distance_to_shape, draw_background, render
from nitro_lab.mini.world import FACTORS, all_scenes, sample_scenes

CENTERS = {"left": (-12, 0), "right": (12, 0), "top": (0, -12), "bottom": (0, 12), "center": (0, 0)}
JITTER = 2.0
RADII = {"small": (10.5, 12.0), "large": (15.5, 17.5)}
GOLDEN_SUM, GOLDEN_PIXELS = -182723.179, [0.203973, -0.03, -0.08852]
STAR_TIP, STAR_NOTCH, RING = 1.12, 1.12 * 0.52, (0.66 + 0.36, 0.66 - 0.36)
AREAS = {  # of the shape of radius 1
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
    """Where the image differs from its background alone. (N, 64, 64)."""
    background = draw_background(scenes[:, -1], torch.Generator().manual_seed(seed)) * 2 - 1
    return (seeded_render(scenes, seed, counts) - background).abs().amax(1) > 1e-3


def test_golden_values():
    generator = torch.Generator().manual_seed(0)
    scenes = sample_scenes(all_scenes(), 64, generator)
    images = render(scenes, generator, torch.arange(64) % 3 + 1)
    assert images.double().sum().item() == pytest.approx(GOLDEN_SUM, rel=1e-6)
    assert images[:3, 0, 32, 32].tolist() == pytest.approx(GOLDEN_PIXELS, rel=1e-5)


def test_images_are_in_range_and_a_pure_function_of_the_generator():
    scenes = all_scenes()[::16]
    counts = torch.arange(len(scenes)) % 3 + 1
    before = torch.get_rng_state()
    images = seeded_render(scenes, 5, counts)
    assert torch.equal(images, seeded_render(scenes, 5, counts))
    assert torch.equal(before, torch.get_rng_state())
    assert images.shape == (len(scenes), 3, SIZE, SIZE)
    assert ((images >= -1) & (images <= 1)).all()


@pytest.mark.parametrize("shape", FACTORS["shape"])
def test_area_of_a_shape(shape):
    """Anti-aliased coverage sums to the figure's area, turned or not."""
    index = torch.full((5,), FACTORS["shape"].index(shape))
    radius = torch.tensor([10.5, 12.0, 15.5, 17.5, 16.0])
    center = torch.tensor([[0.0, 0.0], [0.3, -0.7], [2.5, 1.0], [0.0, 0.5], [-1.0, 0.2]])
    tilt = torch.tensor([0.0, 0.3, -0.2, 0.1, 0.35])[:, None, None]
    area = (0.5 - distance_to_shape(index, center, radius, tilt)).clamp(0, 1).sum((1, 2))
    torch.testing.assert_close(area / radius**2, torch.full((5,), AREAS[shape]), rtol=0.03, atol=0)


@pytest.mark.parametrize("size", FACTORS["size"])
@pytest.mark.parametrize("place", FACTORS["place"])
def test_objects_are_where_and_as_large_as_the_caption_says(place, size):
    scene = scene_of(size=size, place=place, shape="circle").expand(32, 6)
    masks = coverage(scene)
    ticks = torch.arange(SIZE) - (SIZE - 1) / 2
    area = masks.sum((1, 2))
    x, y = ((masks * axis).sum((1, 2)) / area for axis in (ticks, ticks[:, None]))
    expected_x, expected_y = CENTERS[place]
    assert torch.cat([x - expected_x, y - expected_y]).abs().max() < JITTER + 0.5
    assert min(x.std(), y.std()) > 0.5
    radius = (area / math.pi).sqrt() / 0.92
    low, high = RADII[size]
    assert radius.min() > low - 0.2
    assert radius.max() < high + 1.2  # the mask holds the pixels that are covered in part


def test_number_of_objects():
    scene = scene_of(size="small", shape="circle", place="center").expand(48, 6)
    counts = torch.tensor([1, 2, 3] * 16)
    found = [ndimage.label(mask.numpy())[1] for mask in coverage(scene, 3, counts)]
    assert found == counts.tolist()
