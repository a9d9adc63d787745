"""Metrics of samples: distances between sets of features, power spectra of images, accuracy of the captions' factors.

Features (N, D) may come from any extractor; random ones are not biased towards captions. Distances are computed in
float64 and raise a ValueError if a set has fewer than 2 rows, or NaN or infinite values.
"""

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import nn

from nitro_lab.randomness import seeded

__all__ = [
    "LOWER_IS_BETTER",
    "confusion_matrix",
    "factor_accuracy",
    "frechet_distance",
    "high_pass",
    "radial_spectrum",
    "random_features",
    "repetition_rate",
    "sharpness",
    "wilson_interval",
]

LOWER_IS_BETTER = ("told_apart", "FD", "FD (random)", "repetition")
_WIDTHS = (3, 24, 24, 24)  # channels of the random network, which works at full, half and quarter resolution


def frechet_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features x (N, D) and y (M, D) (Heusel et al. 2017, eq. 6)."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must be (N, D) and (M, D); they are {(*x.shape,)} and {(*y.shape,)}.")
    for name, features in {"x": x, "y": y}.items():
        if len(features) < 2:
            raise ValueError(f"{name} has {len(features)} row(s); at least 2 are needed.")
        if not features.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values; check the images or the weights that they come from.")
    x, y = x.double(), y.double()
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    # tr √(Cx·Cy): the product is similar to a positive semi-definite matrix, so its eigenvalues are real and ≥ 0.
    product = cov_x @ cov_y
    if not product.isfinite().all():  # the eigenvalue routine crashes the process
        raise ValueError("The covariances of x and y overflow float64; scale the features down.")
    trace_root = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return (means + cov_x.trace() + cov_y.trace() - 2 * trace_root).item()


def high_pass(images: torch.Tensor) -> torch.Tensor:
    """Four times the difference of images (N, C, H, W) from their 3×3 means; fine detail becomes of unit order."""
    return 4 * (images - F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False))


@torch.no_grad()
def random_features(images: torch.Tensor, seed: int = 0, batch_size: int = 64) -> torch.Tensor:
    """Log energies of random filters at three scales. Images (N, 3, H, W) -> (N, 72).

    Networks with random weights compare sets of images without a bias towards what they were trained for (Naeem et al.
    2020, section 4.1, "R64"). Here the input is high-pass filtered, and each channel of each level is reduced to the
    log of its mean square, so that the distance is one of texture and fine detail, not of color and place.
    """
    weights = [weight.to(images.device) for weight in _random_weights(seed)]
    rows = []
    for batch in images.split(batch_size):
        x, energies = high_pass(batch.float()), []
        for weight in weights:
            x = F.leaky_relu(F.conv2d(x, weight, padding=1), 0.2)
            energies.append(x.square().mean((-2, -1)).clamp(min=1e-8).log())
            x = F.avg_pool2d(x, 2)
        rows.append(torch.cat(energies, 1))
    return torch.cat(rows)


@lru_cache(maxsize=4)
def _random_weights(seed: int) -> list[torch.Tensor]:
    """Orthogonal weights of a 3×3 convolution for each level, from the CPU's generator: the same on every device."""
    pairs = pairwise(_WIDTHS)
    return seeded(seed, lambda: [nn.init.orthogonal_(nn.Conv2d(a, b, 3, bias=False).weight) for a, b in pairs])


def radial_spectrum(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power spectrum of images (N, C, H, W), averaged over images, channels and directions.

    Returns frequencies (S/2,) in cycles per pixel up to Nyquist (0.5), S being the shorter side, and the power at each.
    """
    side = min(images.shape[-2:])
    centered = images.double() - images.double().mean((-2, -1), keepdim=True)
    power = torch.fft.fft2(centered, norm="ortho").abs().square().mean((0, 1))  # (H, W)
    fy, fx = (torch.fft.fftfreq(n, device=images.device, dtype=torch.float64) for n in images.shape[-2:])
    ring = (torch.hypot(fx, fy[:, None]) * side).round().long().flatten()
    mean = torch.bincount(ring, power.flatten()) / torch.bincount(ring).clamp(min=1)
    rings = torch.arange(1, side // 2 + 1, device=images.device)
    return rings / side, mean[rings]


def sharpness(images: torch.Tensor) -> float:
    """Mean of the radial power spectrum above half Nyquist (0.25 cycles per pixel). Images (N, C, H, W)."""
    frequency, power = radial_spectrum(images)
    return power[frequency > 0.25].mean().item()


def factor_accuracy(predicted: torch.Tensor, expected: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Fraction of images whose predicted (N, F) factors equal the expected ones: each of F names, and "all" of them."""
    correct = (predicted == expected).double()
    return dict(zip(names, correct.mean(0).tolist(), strict=True)) | {"all": correct.prod(1).mean().item()}


def confusion_matrix(predicted: torch.Tensor, expected: torch.Tensor, num_values: int) -> torch.Tensor:
    """Confusion matrix (V, V) of one factor: expected values down, predicted across; empty rows are NaN."""
    counts = torch.bincount(expected * num_values + predicted, minlength=num_values**2)
    counts = counts.view(num_values, num_values).double()
    return counts / counts.sum(1, keepdim=True)


def repetition_rate(counts: torch.Tensor) -> float:
    """Fraction of images with more than one object. Counts (N,), as predicted by a classifier."""
    return (counts > 1).double().mean().item()


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """95 % interval of a fraction of `count` images (Wilson 1927); it stays in [0, 1] and has a width at 0 and 1."""
    interval = binomtest(round(fraction * count), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
