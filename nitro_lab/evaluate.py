"""How good are samples? Distances between sets of features, spectra of images, and the share of captions obeyed.

Every function takes plain tensors: features of any extractor (N, D), images (N, C, H, W), or a judge's guesses.
Distances are computed in float64.
"""

import math

import torch


def frechet_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features x (N, D) and y (M, D) (Heusel et al. 2017, eq. 6)."""
    x, y = two_sets(x, y)
    cov_x, cov_y = torch.cov(x.T), torch.cov(y.T)
    # tr √(Cx·Cy): the product is similar to a positive semi-definite matrix, so its eigenvalues are real and ≥ 0.
    trace_root = torch.linalg.eigvals(cov_x @ cov_y).real.clamp(min=0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return (means + cov_x.trace() + cov_y.trace() - 2 * trace_root).item()


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """KID: unbiased squared MMD of x (N, D) and y (M, D) under the kernel (a·b/D + 1)³ (Bińkowski et al. 2018)."""
    x, y = two_sets(x, y)
    kernel_xx, kernel_yy, kernel_xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = sum((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel_xx, kernel_yy))
    return float(within - 2 * kernel_xy.mean())


def manifold_scores(real: torch.Tensor, fake: torch.Tensor, neighbors: int = 5) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Each point of `real` (N, D) and `fake` (M, D) owns the ball that reaches its k-th nearest neighbour of its own set.
    Precision is the share of fakes inside some real ball, recall the share of reals inside some fake ball; density
    counts real balls around a fake, over k; coverage is the share of real balls that hold a fake.

    Raises:
        ValueError: if a set has no k-th neighbour.
    """
    real, fake = two_sets(real, fake)
    if min(len(real), len(fake)) <= neighbors:
        raise ValueError(f"neighbors is {neighbors}; both sets ({len(real)} and {len(fake)} points) must be larger.")
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
    """Power spectrum, averaged over images, channels and directions.

    Args:
        images: (N, C, H, H), square, of any range.

    Returns:
        Frequencies (H/2,) in cycles per pixel, up to Nyquist (0.5), and the mean power in the ring around each.
    """
    side = images.shape[-1]
    centered = images.double() - images.double().mean((-2, -1), keepdim=True)
    power = torch.fft.fft2(centered, norm="ortho").abs().square().mean((0, 1))  # (H, H)
    axis = torch.fft.fftfreq(side, device=images.device, dtype=torch.float64)
    ring = (torch.hypot(axis, axis[:, None]) * side).round().long().flatten()
    total = torch.zeros(int(ring.max()) + 1, dtype=torch.float64, device=images.device)
    count = torch.bincount(ring).clamp(min=1)
    mean = total.scatter_add(0, ring, power.flatten()) / count
    rings = torch.arange(1, side // 2 + 1, device=images.device)
    return rings / side, mean[rings]


def sharpness(images: torch.Tensor) -> float:
    """Mean of the radial power spectrum above half Nyquist (0.25 cycles per pixel). Images (N, C, H, H)."""
    frequency, power = radial_spectrum(images)
    return power[frequency > 0.25].mean().item()


def caption_accuracy(guesses: torch.Tensor, asked: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Share of images that show what was asked: each factor alone, and all of them ("all").

    Args:
        guesses: (N, F) integers, what a judge sees.
        asked: (N, F) integers, what the captions say.
        names: the F factors.
    """
    right = (guesses == asked).double()
    shares = dict(zip(names, right.mean(0).tolist(), strict=True))
    return shares | {"all": right.prod(1).mean().item()}


def confusion(guesses: torch.Tensor, asked: torch.Tensor, values: int) -> torch.Tensor:
    """How often each value of a factor was read where each was asked for, as shares of those asked for.

    Args:
        guesses, asked: (N,) integers below `values`.

    Returns:
        (values, values): what was asked for down, what is read across. Rows add up to 1, or are nan if never asked for.
    """
    counts = torch.bincount(asked * values + guesses, minlength=values**2).view(values, values).double()
    return counts / counts.sum(1, keepdim=True)


def repetition_rate(counts: torch.Tensor) -> float:
    """Share of images that show more than one object. Counts (N,), as a judge counts them."""
    return (counts > 1).double().mean().item()


def interval(share: float, count: int) -> tuple[float, float]:
    """Ends of the 95 % interval of a share that was measured on `count` images (Wilson 1927).

    Unlike share ± 1.96 standard errors it has a width at 0 and at 1, and never leaves them.
    """
    widen = 1.96**2 / count
    center = (share + widen / 2) / (1 + widen)
    half = math.sqrt(widen * share * (1 - share) + widen**2 / 4) / (1 + widen)
    return max(0.0, center - half), min(1.0, center + half)


def two_sets(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets in float64, after a check of their shapes."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D); they are {tuple(x.shape)} and {tuple(y.shape)}.")
    return x.double(), y.double()
