"""Random patterns of the miniature's images: noise, the four backgrounds and the five textures.

Everything is batched, is drawn from a generator and lies on the generator's device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BACKGROUNDS", "SIZE", "TEXTURES", "uniform"]

SIZE = 64  # pixels a side of every image

_RGB = tuple[float, float, float]


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Sample uniformly from [low, high)."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def _value_noise(generator: torch.Generator, count: int, rows: int, columns: int) -> Tensor:
    """Smooth noise: a random grid of rows × columns, interpolated. (count, 64, 64), roughly in [0, 1]."""
    grid = uniform(generator, (count, 1, rows, columns))
    return F.interpolate(grid, (SIZE, SIZE), mode="bicubic", align_corners=True).squeeze(1)


def _scattered_discs(
    generator: torch.Generator, count: int, cell: int, probability: float, radius: tuple[float, float]
) -> Tensor:
    """Coverage (count, 64, 64) by small discs, times their random brightness; at most one disc in each square cell.

    Cells have `cell` pixels a side, a divisor of 64, and contain a disc with this probability; radii in pixels.
    """
    cells = SIZE // cell
    radii = uniform(generator, (count, 1, cells, cells), *radius)
    margin = cell / 2 - radii.clamp(max=cell / 2 - 0.5)  # largest offset at which the disc stays in its cell
    offset = uniform(generator, (count, 2, cells, cells), -1, 1) * margin
    brightness = uniform(generator, (count, 1, cells, cells), 0.35, 0.8)
    brightness = brightness * (uniform(generator, (count, 1, cells, cells)) < probability)
    discs = torch.cat([offset, radii, brightness], 1).repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    x, y, radii, brightness = discs.unbind(1)
    ticks = torch.arange(cell, device=generator.device).repeat(cells) - (cell - 1) / 2
    distance = torch.hypot(ticks - x, ticks[:, None] - y)
    return brightness * (0.5 + radii - distance).clamp(0, 1)


def _night(generator: torch.Generator, count: int) -> Tensor:
    """Dark blue, haze, and stars of different brightness."""
    haze = _value_noise(generator, count, 4, 4) * 0.5
    stars = _scattered_discs(generator, count, 8, 0.55, (0.7, 1.4))
    return _paint(_gradient(generator, count, (0.03, 0.04, 0.12), (0.10, 0.10, 0.26), haze), (0.90, 0.88, 0.72), stars)


def _sunset(generator: torch.Generator, count: int) -> Tensor:
    """Mauve to peach, with streaks of cloud."""
    streaks = 0.6 * _value_noise(generator, count, 9, 4) + 0.4 * _value_noise(generator, count, 22, 10)
    clouds = ((streaks - 0.52) * 7).clamp(0, 1) * 0.55
    return _paint(_gradient(generator, count, (0.44, 0.28, 0.42), (0.86, 0.62, 0.54)), (0.36, 0.22, 0.36), clouds)


def _ocean(generator: torch.Generator, count: int) -> Tensor:
    """Teal, with bent and broken wave crests."""
    pitch = uniform(generator, (count, 1, 1), 6.0, 8.0)
    rows = torch.arange(SIZE, device=generator.device)[:, None] / pitch
    phase = rows + 1.3 * _value_noise(generator, count, 5, 9) + uniform(generator, (count, 1, 1))
    crest = 1 - ((torch.remainder(phase, 1) - 0.5).abs() * pitch - 0.5).clamp(0, 1)
    broken = ((_value_noise(generator, count, 9, 7) - 0.38) * 5).clamp(0, 1)
    water = _gradient(generator, count, (0.05, 0.38, 0.46), (0.34, 0.60, 0.66))
    return _paint(water, (0.66, 0.82, 0.80), crest * broken * 0.65)


def _meadow(generator: torch.Generator, count: int) -> Tensor:
    """Olive green, leaning blades of grass, a few pale flowers."""
    blades = ((_value_noise(generator, count, 10, 24) - 0.36) * 3.2).clamp(0, 1)
    flowers = _scattered_discs(generator, count, 16, 0.5, (1.0, 1.6))
    ground = _gradient(generator, count, (0.36, 0.44, 0.20), (0.62, 0.66, 0.38))
    return _paint(_paint(ground, (0.24, 0.31, 0.12), blades * 0.5), (0.88, 0.86, 0.70), flowers)


# (generator, count) -> (count, 3, 64, 64) in [0, 1]; in the order of FACTORS["background"]
BACKGROUNDS = (_night, _sunset, _ocean, _meadow)


def _gradient(generator: torch.Generator, count: int, top: _RGB, bottom: _RGB, shift: Tensor | float = 0.0) -> Tensor:
    """From `top` to `bottom` around a random height; `shift` (count, 64, 64) moves it pixel by pixel."""
    height = torch.linspace(0, 1, SIZE, device=generator.device)[:, None].expand(count, SIZE, SIZE)
    mix = (height + uniform(generator, (count, 1, 1), -0.2, 0.2) + shift).clamp(0, 1)[:, None]
    ends = torch.tensor([top, bottom], device=mix.device)[:, :, None, None]
    return torch.lerp(ends[0], ends[1], mix)


def _paint(image: Tensor, color: _RGB, coverage: Tensor) -> Tensor:
    """Blend a color into images by `coverage` (count, 64, 64) in [0, 1]."""
    return torch.lerp(image, torch.tensor(color, device=image.device)[:, None, None], coverage[:, None])


# Textures do not turn with their objects, and their mean brightness differs. With random directions and equal
# brightness, a teacher of a few thousand steps draws stripes and checkers alike (docs/tries.md).
def _solid(generator: torch.Generator, x: Tensor, y: Tensor) -> Tensor:
    """A tone without a pattern."""
    return torch.ones_like(x)


def _striped(generator: torch.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Diagonal stripes, half as wide as the shade between them."""
    pitch = _per_image(generator, x, 7.6, 9.0)
    return _coverage((_wave(0.5**0.5 * (x + y) / pitch + _per_image(generator, x)) - 1 / 12) * pitch)


def _dotted(generator: torch.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Shaded round dots on a square lattice."""
    pitch = _per_image(generator, x, 6.0, 7.2)
    u, v = (torch.remainder(w / pitch + _per_image(generator, x), 1) - 0.5 for w in (x, y))
    return _coverage((torch.hypot(u, v) - 0.33) * pitch)


def _checkered(generator: torch.Generator, x: Tensor, y: Tensor) -> Tensor:
    """A checkerboard along the axes."""
    pitch = _per_image(generator, x, 8.6, 10.2)
    u, v = (_wave(w / pitch + _per_image(generator, x)) * pitch for w in (x, y))
    return _coverage(torch.minimum(u.abs(), v.abs()) * torch.sign(u * v))


def _speckled(generator: torch.Generator, x: Tensor, y: Tensor) -> Tensor:
    """Irregular grains: fine smooth noise against a threshold."""
    return _coverage((_value_noise(generator, len(x), 24, 24) - 0.42) * 5)


# (generator, x, y in pixels (N, 64, 64)) -> tone in [0, 1] (N, 64, 64): 1 is the object's color, 0 its shade;
# in the order of FACTORS["texture"]
TEXTURES = (_solid, _striped, _dotted, _checkered, _speckled)


def _per_image(generator: torch.Generator, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """One random value for each image, (N, 1, 1)."""
    return uniform(generator, (len(like), 1, 1), low, high)


def _wave(phase: Tensor) -> Tensor:
    """A triangle wave of period 1, in [-0.25, 0.25]: the signed distance to the nearest edge of a stripe."""
    return (torch.remainder(phase, 1) - 0.5).abs() - 0.25


def _coverage(distance: Tensor) -> Tensor:
    """Coverage of a pixel at this signed distance from an edge."""
    return (distance + 0.5).clamp(0, 1)
