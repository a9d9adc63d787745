"""Signed distances to the six shapes: negative inside, in pixels. x and y (N, H, W), radius (N, 1, 1) -> (N, H, W).

The formulas are the well-known exact distances (circle, box, regular polygon, star, ring) and, for the heart, the
distance to two discs over a turned square.
"""

import math

import torch


def circle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return torch.hypot(x, y) - 0.92 * radius


def square(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return box(x, y, 0.8 * radius)


def triangle(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """The largest of the distances to three sides; corners are sharp."""
    sides = [math.cos(a) * x + math.sin(a) * (y - 0.2 * radius) for a in (math.pi / 2, -math.pi / 6, -5 * math.pi / 6)]
    return torch.maximum(torch.maximum(sides[0], sides[1]), sides[2]) - 0.66 * radius


def star(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
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


def ring(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return (torch.hypot(x, y) - 0.66 * radius).abs() - 0.36 * radius


def heart(x: torch.Tensor, y: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Two discs on the upper sides of a square that stands on its corner."""
    half = 0.56 * radius
    y = y - 0.12 * radius
    u, v = (x + y) * math.sqrt(0.5), (y - x) * math.sqrt(0.5)
    left, right = torch.hypot(u + half, v) - half, torch.hypot(u, v + half) - half
    return torch.minimum(box(u, v, half), torch.minimum(left, right))


def box(x: torch.Tensor, y: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    dx, dy = x.abs() - half, y.abs() - half
    return torch.hypot(dx.clamp(min=0), dy.clamp(min=0)) + torch.maximum(dx, dy).clamp(max=0)


SHAPES = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "star": star,
    "ring": ring,
    "heart": heart,
}
