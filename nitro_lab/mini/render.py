"""Pictures of the world, batched and anti-aliased: a background, and an object drawn from its signed distance.

Lengths are in pixels, the origin is the centre of the picture, y points down. What no caption tells (exact place,
size and tilt; phase and pitch of a texture; every star, cloud, wave and blade of grass) is drawn from the
generator, so one scene has endlessly many pictures.
"""

import math
from collections.abc import Mapping

import torch

from nitro_lab.mini.backgrounds import BACKGROUNDS
from nitro_lab.mini.noise import SIZE, uniform
from nitro_lab.mini.shapes import SHAPES
from nitro_lab.mini.textures import TEXTURES

COLORS = {  # sRGB; each is at least 35 (CIE76 colour difference) away from every other and from every background
    "red": (0.86, 0.06, 0.10),
    "orange": (1.0, 0.54, 0.0),
    "yellow": (1.0, 0.90, 0.12),
    "green": (0.05, 0.70, 0.22),
    "blue": (0.08, 0.38, 1.0),
    "purple": (0.55, 0.10, 0.68),
    "pink": (1.0, 0.42, 0.74),
    "white": (0.97, 0.97, 0.97),
}
SHADE = 0.5  # the second tone of a texture is the colour times this
RIM = 1.0  # pixels along the edge of an object that keep the pure colour, whatever the texture
RADII = {"small": (10.5, 12.0), "large": (15.5, 17.5)}
CENTERS = {"left": (-12.0, 0.0), "right": (12.0, 0.0), "top": (0.0, -12.0), "bottom": (0.0, 12.0), "center": (0.0, 0.0)}
JITTER = 2.0
MAX_TILT = math.radians(20)
COPY_RADII = (8.0, 10.5)
COPY_SPOTS = torch.cartesian_prod(torch.tensor([-21.0, 0.0, 21.0]), torch.tensor([-21.0, 0.0, 21.0]))  # (9, 2)


def render(scenes: torch.Tensor, generator: torch.Generator, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Draw one picture for each scene.

    Args:
        scenes: (N, 6) integers, one index for each factor of `FACTORS`.
        generator: the only source of chance; the pictures are made on its device.
        counts: (N,) numbers of objects, 1 to 3; one each unless told. Further objects are small copies of the
            first: the "Janus" artefact, on purpose.

    Returns:
        (N, 3, 64, 64) in [-1, 1].
    """
    device = generator.device
    size, texture, color, shape, place, background = scenes.to(device).unbind(1)
    counts = torch.ones_like(size) if counts is None else counts.to(device)

    picture = draw_background(background, generator)
    centers, radii = place_objects(place, size, int(counts.max()), generator)
    paint = tones(texture, generator)[:, None] * look_up(COLORS, device)[color][:, :, None, None]
    rim_paint = look_up(COLORS, device)[color][:, :, None, None]
    tilt = uniform(generator, (len(scenes), 1, 1), -MAX_TILT, MAX_TILT)
    for copy in range(centers.shape[1]):
        rows = (counts > copy).nonzero().squeeze(1)
        distance = distance_to_shape(shape[rows], centers[rows, copy], radii[rows, copy], tilt[rows])[:, None]
        rim = (0.5 + RIM + distance).clamp(0, 1)
        inside = (0.5 - distance).clamp(0, 1)
        picture[rows] = torch.lerp(picture[rows], torch.lerp(paint[rows], rim_paint[rows], rim), inside)
    return picture * 2 - 1


def draw_background(background: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(N,) indices -> (N, 3, 64, 64) in [0, 1]."""
    picture = torch.empty(len(background), 3, SIZE, SIZE, device=generator.device)
    for index, draw in enumerate(BACKGROUNDS.values()):
        rows = (background == index).nonzero().squeeze(1)
        picture[rows] = draw(generator, len(rows))
    return picture


def tones(texture: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Brightness of the textures, from `SHADE` to 1. (N,) indices -> (N, 64, 64)."""
    x, y = (axis.expand(len(texture), SIZE, SIZE) for axis in pixel_grid(generator.device))
    tone = torch.empty(len(texture), SIZE, SIZE, device=generator.device)
    for index, draw in enumerate(TEXTURES.values()):
        rows = (texture == index).nonzero().squeeze(1)
        tone[rows] = draw(generator, x[rows], y[rows])
    return SHADE + (1 - SHADE) * tone


def place_objects(
    place: torch.Tensor, size: torch.Tensor, most: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres (N, most, 2) and radii (N, most): the first object where the scene says, copies clear of the others."""
    device, count = generator.device, len(place)
    low, high = look_up(RADII, device)[size].unbind(1)
    radii = [torch.lerp(low, high, uniform(generator, (count,)))]
    centers = [look_up(CENTERS, device)[place] + uniform(generator, (count, 2), -JITTER, JITTER)]
    spots = COPY_SPOTS.to(device)
    for _ in range(most - 1):
        radius = uniform(generator, (count,), *COPY_RADII)
        gaps = [torch.cdist(c, spots) - (r + radius)[:, None] for c, r in zip(centers, radii, strict=True)]
        gap = torch.stack(gaps).amin(0)  # (N, 9): how far each spot is from touching any object
        wish = uniform(generator, gap.shape) + 10 * gap.clamp(max=1)  # any spot that is clear, else the clearest
        spot = spots[wish.argmax(1)] + uniform(generator, (count, 2), -0.5, 0.5)
        centers.append(spot)
        radii.append(radius)
    return torch.stack(centers, 1), torch.stack(radii, 1)


def distance_to_shape(
    shape: torch.Tensor, center: torch.Tensor, radius: torch.Tensor, tilt: torch.Tensor
) -> torch.Tensor:
    """Signed distance of every pixel to its object. (N,), (N, 2), (N,), (N, 1, 1) -> (N, 64, 64)."""
    x, y = pixel_grid(center.device)
    x, y = x - center[:, 0, None, None], y - center[:, 1, None, None]
    x, y = x * tilt.cos() + y * tilt.sin(), y * tilt.cos() - x * tilt.sin()
    distance = torch.empty_like(x)
    for index, signed_distance in enumerate(SHAPES.values()):
        rows = (shape == index).nonzero().squeeze(1)
        distance[rows] = signed_distance(x[rows], y[rows], radius[rows, None, None])
    return distance


def pixel_grid(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of the pixel centres: x (1, 1, 64) and y (1, 64, 1)."""
    ticks = torch.arange(SIZE, device=device) - (SIZE - 1) / 2
    return ticks[None, None, :], ticks[None, :, None]


def look_up(values: Mapping[str, tuple[float, ...]], device: torch.device) -> torch.Tensor:
    """A dictionary of equally long tuples as one tensor, a row for each key."""
    return torch.tensor(list(values.values()), device=device)
