"""The five textures as a tone in [0, 1]: 1 is the object's colour, 0 its shade. Phase and pitch are random.

Patterns do not turn with their objects, and each is differently bright on average. A teacher of a few thousand steps
learns first what a word means on average, and a word whose patterns point everywhere means a blur: when stripes and
checkers turned at random and were equally bright, it drew both alike (`docs/tries.md`).

Each function: generator, x and y (N, 64, 64) in pixels -> (N, 64, 64).
"""

import torch

from nitro_lab.mini.noise import uniform, value_noise


def solid(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(x)


def striped(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Slanting stripes, half as wide as the shade between them."""
    pitch = one_each(generator, x, 7.6, 9.0)
    return soft((wave(0.5**0.5 * (x + y) / pitch + one_each(generator, x)) - 1 / 12) * pitch)


def dotted(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Shaded round dots on a square lattice."""
    pitch = one_each(generator, x, 6.0, 7.2)
    u, v = (torch.remainder(w / pitch + one_each(generator, x), 1) - 0.5 for w in (x, y))
    return soft((torch.hypot(u, v) - 0.33) * pitch)


def checkered(generator: torch.Generator, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    pitch = one_each(generator, x, 8.6, 10.2)
    u, v = (wave(w / pitch + one_each(generator, x)) * pitch for w in (x, y))
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


def wave(phase: torch.Tensor) -> torch.Tensor:
    """A triangle wave of period 1, in [-0.25, 0.25]: the signed distance to the nearest edge of a stripe."""
    return (torch.remainder(phase, 1) - 0.5).abs() - 0.25


def soft(distance: torch.Tensor) -> torch.Tensor:
    """Coverage of a pixel at this signed distance from an edge."""
    return (distance + 0.5).clamp(0, 1)
