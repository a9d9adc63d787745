"""Renders scenes, batched and anti-aliased: a background, and an object drawn from its signed distance.

Lengths are in pixels, the origin is the center of the image, y points down. What captions do not mention (exact
position, size and tilt; phase and pitch of a texture; every star, cloud and blade of grass) is random.
"""

import math

import torch
from torch import Tensor

from nitro_lab.mini.patterns import BACKGROUNDS, SIZE, TEXTURES, uniform

__all__ = ["COLORS", "SIZE", "distance_to_shape", "draw_background", "place_objects", "render"]

# sRGB; each is at least 35 (CIE76 color difference) away from every other and from every background
COLORS = torch.tensor(  # (8, 3), in the order of FACTORS["color"]
    [
        *[(0.86, 0.06, 0.10), (1.0, 0.54, 0.0), (1.0, 0.90, 0.12), (0.05, 0.70, 0.22)],
        *[(0.08, 0.38, 1.0), (0.55, 0.10, 0.68), (1.0, 0.42, 0.74), (0.97, 0.97, 0.97)],
    ]
)
_SHADE = 0.5  # the second tone of a texture is the color times this
_RIM = 1.0  # width in pixels of the edge of an object that has the plain color, whatever the texture
_RADII = torch.tensor([(10.5, 12.0), (15.5, 17.5)])  # small, large
_CENTERS = 12.0 * torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)])  # left, right, top, bottom, center
_JITTER = 2.0
_MAX_TILT = math.radians(20)
_COPY_RADII = (8.0, 10.5)
_COPY_POSITIONS = torch.cartesian_prod(*[torch.tensor([-21.0, 0.0, 21.0])] * 2)  # (9, 2)


def render(scenes: Tensor, generator: torch.Generator, counts: Tensor | None = None) -> Tensor:
    """Draw one image for each scene: (N, 3, 64, 64) in [-1, 1].

    Args:
        scenes: (N, 6) integers, one index for each factor of `FACTORS`.
        generator: the only source of randomness; the images are made on its device.
        counts: (N,) numbers of objects, 1 to 3; default: 1. Further ones are small copies, the "Janus" artifact.
    """
    device = generator.device
    size, texture, color, shape, place, background = scenes.to(device).unbind(1)
    counts = torch.ones_like(size) if counts is None else counts.to(device)

    image = draw_background(background, generator)
    centers, radii = place_objects(place, size, int(counts.max()), generator)
    rim_paint = COLORS.to(device)[color][:, :, None, None]
    paint = _tones(texture, generator)[:, None] * rim_paint
    tilt = uniform(generator, (len(scenes), 1, 1), -_MAX_TILT, _MAX_TILT)
    for copy in range(centers.shape[1]):
        rows = (counts > copy).nonzero().squeeze(1)
        distance = distance_to_shape(shape[rows], centers[rows, copy], radii[rows, copy], tilt[rows])[:, None]
        rim = (0.5 + _RIM + distance).clamp(0, 1)
        inside = (0.5 - distance).clamp(0, 1)
        image[rows] = torch.lerp(image[rows], torch.lerp(paint[rows], rim_paint[rows], rim), inside)
    return image * 2 - 1


def draw_background(background: Tensor, generator: torch.Generator) -> Tensor:
    """Draw backgrounds: (N,) indices -> (N, 3, 64, 64) in [0, 1]."""
    image = torch.empty(len(background), 3, SIZE, SIZE, device=generator.device)
    for index, draw in enumerate(BACKGROUNDS):
        rows = (background == index).nonzero().squeeze(1)
        image[rows] = draw(generator, len(rows))
    return image


def _tones(texture: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness of the textures, from `_SHADE` to 1. (N,) indices -> (N, 64, 64)."""
    x, y = (axis.expand(len(texture), SIZE, SIZE) for axis in _pixel_grid(generator.device))
    tone = torch.empty(len(texture), SIZE, SIZE, device=generator.device)
    for index, draw in enumerate(TEXTURES):
        rows = (texture == index).nonzero().squeeze(1)
        tone[rows] = draw(generator, x[rows], y[rows])
    return _SHADE + (1 - _SHADE) * tone


def place_objects(place: Tensor, size: Tensor, max_count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centers (N, max_count, 2) and radii (N, max_count): the first object as the scene says, then copies."""
    device, count = generator.device, len(place)
    low, high = _RADII.to(device)[size].unbind(1)
    radii = [torch.lerp(low, high, uniform(generator, (count,)))]
    centers = [_CENTERS.to(device)[place] + uniform(generator, (count, 2), -_JITTER, _JITTER)]
    positions = _COPY_POSITIONS.to(device)
    for _ in range(max_count - 1):
        radius = uniform(generator, (count,), *_COPY_RADII)
        gaps = [torch.cdist(c, positions) - (r + radius)[:, None] for c, r in zip(centers, radii, strict=True)]
        gap = torch.stack(gaps).amin(0)  # (N, 9): distance from each position to the nearest object
        score = uniform(generator, gap.shape) + 10 * gap.clamp(max=1)  # a random free position, or the freest one
        position = positions[score.argmax(1)] + uniform(generator, (count, 2), -0.5, 0.5)
        centers.append(position)
        radii.append(radius)
    return torch.stack(centers, 1), torch.stack(radii, 1)


def distance_to_shape(shape: Tensor, center: Tensor, radius: Tensor, tilt: Tensor) -> Tensor:
    """Signed distance of every pixel to its object. (N,), (N, 2), (N,), (N, 1, 1) -> (N, 64, 64)."""
    x, y = _pixel_grid(center.device)
    x, y = x - center[:, 0, None, None], y - center[:, 1, None, None]
    x, y = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    distance = torch.empty_like(x)
    for index, signed_distance in enumerate(_SHAPES):
        rows = (shape == index).nonzero().squeeze(1)
        distance[rows] = signed_distance(x[rows], y[rows], radius[rows, None, None])
    return distance


def _circle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.92 * radius


def _square(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return _box(x, y, 0.8 * radius)


def _triangle(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The largest of the distances to three sides; corners are sharp."""
    sides = [math.cos(a) * x + math.sin(a) * (y - 0.2 * radius) for a in (math.pi / 2, -math.pi / 6, -5 * math.pi / 6)]
    return torch.maximum(torch.maximum(sides[0], sides[1]), sides[2]) - 0.66 * radius


def _star(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """A five-pointed star: fold the plane into one half of one point, then the distance to a line."""
    sector = math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + sector, 2 * sector) - sector
    length = torch.hypot(x, y)
    px, py = length * angle.sin().abs(), length * angle.cos()
    tip = 1.12 * radius
    notch = 0.52 * tip  # inner radius
    nx, ny = notch * math.sin(sector), notch * math.cos(sector)
    ex, ey = nx, ny - tip  # the edge, from the tip at (0, tip) to the notch
    return (px * ey - (py - tip) * ex) / -torch.hypot(ex, ey)


def _ring(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.66 * radius).abs() - 0.36 * radius


def _heart(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Two discs on the upper sides of a square that stands on its corner."""
    half = 0.56 * radius
    y = y - 0.12 * radius
    u, v = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    left, right = torch.hypot(u + half, v) - half, torch.hypot(u, v + half) - half
    return torch.minimum(_box(u, v, half), torch.minimum(left, right))


# (x, y (N, H, W), radius (N, 1, 1)) -> signed distance (N, H, W), negative inside; in the order of FACTORS["shape"]
_SHAPES = (_circle, _square, _triangle, _star, _ring, _heart)


def _box(x: Tensor, y: Tensor, half: Tensor) -> Tensor:
    dx, dy = x.abs() - half, y.abs() - half
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


def _pixel_grid(device: torch.device) -> tuple[Tensor, Tensor]:
    """Coordinates of the pixel centers: x (1, 1, 64) and y (1, 64, 1)."""
    ticks = torch.arange(SIZE, device=device) - (SIZE - 1) / 2
    return ticks[None, None, :], ticks[None, :, None]
