"""Random building blocks of the pictures. Each is batched and draws from a generator, on the generator's device."""

import torch
import torch.nn.functional as F

SIZE = 64  # pixels a side of every picture


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Uniform random numbers in [low, high)."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def value_noise(generator: torch.Generator, count: int, rows: int, columns: int) -> torch.Tensor:
    """Smooth noise: a random grid of rows × columns, interpolated. (count, 64, 64), roughly in [0, 1]."""
    grid = uniform(generator, (count, 1, rows, columns))
    return F.interpolate(grid, (SIZE, SIZE), mode="bicubic", align_corners=True).squeeze(1)


def scattered_discs(
    generator: torch.Generator, count: int, cell: int, share: float, radius: tuple[float, float]
) -> torch.Tensor:
    """Small discs at random places: at most one in each square cell, so a pixel needs to look at one disc only.

    Args:
        cell: pixels a side of a cell; divides 64.
        share: chance that a cell holds a disc.
        radius: smallest and largest radius, in pixels.

    Returns:
        (count, 64, 64) coverage in [0, 1], already dimmed by a random brightness for each disc.
    """
    cells = SIZE // cell
    radii = uniform(generator, (count, 1, cells, cells), *radius)
    room = cell / 2 - radii.clamp(max=cell / 2 - 0.5)  # how far the centre may stray and the disc stay inside
    stray = uniform(generator, (count, 2, cells, cells), -1, 1) * room
    brightness = uniform(generator, (count, 1, cells, cells), 0.35, 0.8)
    brightness = brightness * (uniform(generator, (count, 1, cells, cells)) < share)
    x, y, radii, brightness = (
        torch.cat([stray, radii, brightness], 1).repeat_interleave(cell, 2).repeat_interleave(cell, 3).unbind(1)
    )
    ticks = torch.arange(cell, device=generator.device).repeat(cells) - (cell - 1) / 2
    distance = torch.hypot(ticks - x, ticks[:, None] - y)
    return brightness * (0.5 + radii - distance).clamp(0, 1)
