"""The five textures as a tone in [0, 1]: 1 is the object's colour, 0 its shade. Phase, angle and pitch are random.

Each function: generator, x and y (N, 64, 64) in pixels -> (N, 64, 64).
"""

import math

import torch

from nitro_lab.mini.noise import uniform, value_noise


def solid(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x)


def striped(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Coloured stripes half as wide as the shade between them.

    No other texture is so dark on average. Two that are equally bright part late: a teacher first learns what words
    mean on average, and for long drew stripes and checkers alike, when both were half colour and half shade.
    """
    pitch = one_each(generator, x, 7.6, 9.0)
    u, _ = turned(generator, x, y, math.pi)
    return soft((wave(u / pitch + one_each(generator, x)) - 1 / 12) * pitch)


def dotted(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Shaded round dots on a square lattice."""
    pitch = one_each(generator, x, 6.0, 7.2)
    u, v = turned(generator, x, y, math.pi / 2)
    u, v = (torch.remainder(w / pitch + one_each(generator, x), 1) - 0.5 for w in (u, v))
    return soft((torch.hypot(u, v) - 0.33) * pitch)


def checkered(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    pitch = one_each(generator, x, 8.6, 10.2)
    u, v = turned(generator, x, y, math.pi / 2)
    u, v = (wave(w / pitch + one_each(generator, x)) * pitch for w in (u, v))
    return soft(torch.minimum(u.abs(), v.abs()) * torch.sign(u * v))


def speckled(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Irregular grains: fine smooth noise against a threshold."""
    return soft((value_noise(generator, len(x), 24, 24) - 0.42) * 5)


TEXTURES = {
    "solid": solid,
    "striped": striped,
    "dotted": dotted,
    "checkered": checkered,
    "speckled": speckled,
}


def one_each(generator: torch.Generator, like: torch.Tensor, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """One random number for each picture, (N, 1, 1)."""
    return uniform(generator, (len(like), 1, 1), low, high)


def turned(
    generator: torch.Generator, x: torch.Tensor, y: torch.Tensor, full_turn: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The coordinates, turned by a random angle below `full_turn` (radians)."""
    angle = one_each(generator, x, 0, full_turn)
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def wave(phase: torch.Tensor) -> torch.Tensor:
    """A triangle wave of period 1, in [-0.25, 0.25]: the signed distance to the nearest edge of a stripe."""
    return (torch.remainder(phase, 1) - 0.5).abs() - 0.25


def soft(distance: torch.Tensor) -> torch.Tensor:
    """Coverage of a pixel at this signed distance from an edge."""
    return (distance + 0.5).clamp(0, 1)
