"""The four backgrounds, with the detail that no caption tells: stars, clouds, waves, blades of grass.

Each function: generator, count -> (count, 3, 64, 64) in [0, 1].
"""

import torch

from nitro_lab.mini.noise import SIZE, scattered_discs, uniform, value_noise


def night(generator: torch.Generator, count: int) -> torch.Tensor:
    """Dark blue, haze, and stars of every brightness."""
    haze = value_noise(generator, count, 4, 4) * 0.5
    stars = scattered_discs(generator, count, 8, 0.55, (0.7, 1.4))
    return paint(gradient(generator, count, (0.03, 0.04, 0.12), (0.10, 0.10, 0.26), haze), (0.90, 0.88, 0.72), stars)


def sunset(generator: torch.Generator, count: int) -> torch.Tensor:
    """Mauve to peach, with torn streaks of cloud."""
    streaks = 0.6 * value_noise(generator, count, 9, 4) + 0.4 * value_noise(generator, count, 22, 10)
    clouds = ((streaks - 0.52) * 7).clamp(0, 1) * 0.55
    return paint(gradient(generator, count, (0.44, 0.28, 0.42), (0.86, 0.62, 0.54)), (0.36, 0.22, 0.36), clouds)


def ocean(generator: torch.Generator, count: int) -> torch.Tensor:
    """Teal, with crests that bend, break and begin anew."""
    pitch = uniform(generator, (count, 1, 1), 6.0, 8.0)
    rows = torch.arange(SIZE, device=generator.device)[:, None] / pitch
    phase = rows + 1.3 * value_noise(generator, count, 5, 9) + uniform(generator, (count, 1, 1))
    crest = 1 - ((torch.remainder(phase, 1) - 0.5).abs() * pitch - 0.5).clamp(0, 1)
    broken = ((value_noise(generator, count, 9, 7) - 0.38) * 5).clamp(0, 1)
    return paint(
        gradient(generator, count, (0.05, 0.38, 0.46), (0.34, 0.60, 0.66)), (0.66, 0.82, 0.80), crest * broken * 0.65
    )


def meadow(generator: torch.Generator, count: int) -> torch.Tensor:
    """Olive green, leaning blades of grass, a few pale flowers."""
    blades = ((value_noise(generator, count, 10, 24) - 0.36) * 3.2).clamp(0, 1)
    flowers = scattered_discs(generator, count, 16, 0.5, (1.0, 1.6))
    grass = paint(gradient(generator, count, (0.36, 0.44, 0.20), (0.62, 0.66, 0.38)), (0.24, 0.31, 0.12), blades * 0.5)
    return paint(grass, (0.88, 0.86, 0.70), flowers)


BACKGROUNDS = {
    "night": night,
    "sunset": sunset,
    "ocean": ocean,
    "meadow": meadow,
}


def gradient(
    generator: torch.Generator,
    count: int,
    top: tuple[float, float, float],
    bottom: tuple[float, float, float],
    shift: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """From `top` to `bottom`, the middle at a random height; `shift` (count, 64, 64) moves it pixel by pixel."""
    height = torch.linspace(0, 1, SIZE, device=generator.device)[:, None].expand(count, SIZE, SIZE)
    mix = (height + uniform(generator, (count, 1, 1), -0.2, 0.2) + shift).clamp(0, 1)[:, None]
    return torch.lerp(rgb(top, mix.device), rgb(bottom, mix.device), mix)


def paint(picture: torch.Tensor, color: tuple[float, float, float], coverage: torch.Tensor) -> torch.Tensor:
    """Lay a colour over a picture, where `coverage` (count, 64, 64) in [0, 1] says."""
    return torch.lerp(picture, rgb(color, picture.device), coverage[:, None])


def rgb(color: tuple[float, float, float], device: torch.device) -> torch.Tensor:
    return torch.tensor(color, device=device)[:, None, None]
