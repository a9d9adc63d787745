"""Metrics of samples: distances between sets of features, power spectra of images, accuracy of the captions' factors.

Features (N, D) may come from any extractor. Distances are computed in float64 and raise a ValueError if a set has fewer
than 2 rows, or NaN or infinite values.
"""

import torch
from scipy.stats import binomtest

__all__ = [
    "confusion_matrix",
    "factor_accuracy",
    "frechet_distance",
    "kernel_distance",
    "precision_recall",
    "radial_spectrum",
    "repetition_rate",
    "sharpness",
    "wilson_interval",
]


def frechet_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Fréchet distance of Gaussians fitted to features x (N, D) and y (M, D) (Heusel et al. 2017, eq. 6)."""
    x, y = _check_features(x=x, y=y)
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    # tr √(Cx·Cy): the product is similar to a positive semi-definite matrix, so its eigenvalues are real and ≥ 0.
    product = cov_x @ cov_y
    if not product.isfinite().all():  # the eigenvalue routine crashes the process
        raise ValueError("The covariances of x and y overflow float64; scale the features down.")
    trace_root = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return (means + cov_x.trace() + cov_y.trace() - 2 * trace_root).item()


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """KID: unbiased squared MMD of x (N, D) and y (M, D) with the kernel (a·b/D + 1)³ (Bińkowski et al. 2018)."""
    x, y = _check_features(x=x, y=y)
    kernel_xx, kernel_yy, kernel_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel_xx, kernel_yy))
    return float(within - 2 * kernel_xy.mean())


def precision_recall(real: torch.Tensor, fake: torch.Tensor, neighbors: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Each point of `real` (N, D) and `fake` (M, D) is the center of a ball that reaches its k-th nearest neighbor within
    its own set. Precision is the fraction of fakes inside a real ball, recall the fraction of reals inside a fake ball;
    density is the mean number of real balls around a fake, over k; coverage is the fraction of real balls with a fake.
    """
    real, fake = _check_features(real=real, fake=fake)
    if min(len(real), len(fake)) <= neighbors:
        raise ValueError(f"neighbors is {neighbors}; real ({len(real)} rows) and fake ({len(fake)}) must be larger.")
    radius_real, radius_fake = (torch.cdist(s, s).kthvalue(neighbors + 1, dim=1).values for s in (real, fake))
    distance = torch.cdist(real, fake)
    in_real_ball = distance < radius_real[:, None]
    in_fake_ball = distance < radius_fake
    return {
        "precision": in_real_ball.any(0).double().mean().item(),
        "recall": in_fake_ball.any(1).double().mean().item(),
        "density": in_real_ball.double().sum(0).mean().item() / neighbors,
        "coverage": in_real_ball.any(1).double().mean().item(),
    }


def radial_spectrum(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Power spectrum of images (N, C, H, W), averaged over images, channels and directions.

    Returns frequencies (S/2,) in cycles per pixel up to Nyquist (0.5), S being the shorter side, and the mean power in
    the ring of width 1/S around each.
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


def _check_features(**sets: torch.Tensor) -> list[torch.Tensor]:
    """Two sets of features in float64; refuses shapes and values that a distance is not defined for."""
    (first, x), (second, y) = sets.items()
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"{first} and {second} must be (N, D) and (M, D); they are {(*x.shape,)} and {(*y.shape,)}.")
    for name, features in sets.items():
        if len(features) < 2:
            raise ValueError(f"{name} has {len(features)} row(s); at least 2 are needed.")
        if not features.isfinite().all():
            raise ValueError(f"{name} has NaN or infinite values; check the images or the weights that they come from.")
    return [features.double() for features in sets.values()]
