"""The metrics against closed forms, plain loops and maintained libraries."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from nitro_lab.evaluation import metrics


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def two_sets() -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated, shifted, of different sizes. (300, 6) and (200, 6)."""
    return normal(300, 6) @ normal(6, 6, seed=1), normal(200, 6, seed=2) @ normal(6, 6, seed=3) + 0.5


def test_frechet_distance_with_scipys_matrix_root(two_sets):
    x, y = (points.numpy() for points in two_sets)
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * root)
    assert metrics.frechet_distance(*two_sets) == pytest.approx(expected, rel=1e-9)
    few = normal(10, 20)  # fewer points than dimensions
    assert metrics.frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        (normal(20, 3) * 1e120, normal(20, 3) * 1e120, "overflow"),
        (normal(20, 3), normal(20, 4), r"\(20,"),
        (normal(20), normal(20, 1), r"\(20,"),
    ],
)
def test_other_sets_are_refused(x, y, named):
    with pytest.raises(ValueError, match=named):
        metrics.frechet_distance(x, y)


@pytest.mark.parametrize(("bad", "named"), [(math.nan, "NaN"), (math.inf, "infinite"), (None, "1 row")])
def test_unusable_features_are_refused(bad, named):
    """Without the check, LAPACK's eigenvalue routine crashes the process."""
    good, other = normal(20, 3), normal(20, 3, seed=1)
    if bad is None:
        other = other[:1]
    else:
        other[7, 1] = bad
    with pytest.raises(ValueError, match=f"x.*{named}"):
        metrics.frechet_distance(other, good)
    with pytest.raises(ValueError, match=f"y.*{named}"):
        metrics.frechet_distance(good, other)


@pytest.mark.parametrize(("width", "across", "down"), [(32, 5, 0), (32, 3, 4), (64, 16, 0), (64, 0, 8)])
def test_spectrum_of_a_wave_is_one_ring(width, across, down):
    """Frequencies are in cycles per pixel along both axes, whatever the sides."""
    x, y = torch.arange(width).double() / width, torch.arange(32).double()[:, None] / 32
    wave = torch.cos(2 * math.pi * (across * x + down * y))
    frequency, power = metrics.radial_spectrum(wave.expand(2, 3, 32, width))
    assert frequency.tolist() == [ring / 32 for ring in range(1, 17)]
    assert frequency[power.argmax()].item() == math.hypot(across / width, down / 32)
    assert power.sum().item() == pytest.approx(power.max().item())


def test_spectrum_sums_to_the_variance():
    """Parseval: a smooth image, without power beyond Nyquist's ring, has the sum of its rings as its variance."""
    side = 32
    axis = torch.fft.fftfreq(side).double() * side
    inside = torch.hypot(axis, axis[:, None]).round() <= side // 2
    image = torch.fft.ifft2(torch.fft.fft2(normal(1, 1, side, side)) * inside).real
    _, power = metrics.radial_spectrum(image)
    members = torch.bincount(torch.hypot(axis, axis[:, None]).round().long().flatten())[1 : side // 2 + 1]
    assert (power * members).sum().item() / side**2 == pytest.approx(image.var(correction=0).item(), rel=1e-9)


def test_sharpness_falls_with_every_blur():
    image = normal(4, 3, 32, 32)
    values = [metrics.sharpness(torch.nn.functional.avg_pool2d(image, size, 1, size // 2)) for size in (1, 3, 5, 7)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 5 * values[-1]


def test_factor_accuracy_counted_by_hand():
    expected = torch.tensor([[0, 1, 2], [1, 1, 0], [0, 0, 0], [3, 3, 3]])
    predicted = torch.tensor([[0, 1, 2], [1, 0, 0], [0, 0, 1], [0, 3, 1]])
    values = metrics.factor_accuracy(predicted, expected, ("size", "color", "shape"))
    assert values == {"size": 0.75, "color": 0.75, "shape": 0.5, "all": 0.25}


def test_repetition_and_confusion_counted_by_hand():
    assert metrics.repetition_rate(torch.tensor([1, 2, 0, 4, 1, 1, 3, 1])) == 0.375
    expected, predicted = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([0, 1, 1, 2, 2])
    shares = metrics.confusion_matrix(predicted, expected, 3)
    assert shares[[0, 2]].tolist() == [[0.25, 0.5, 0.25], [0, 0, 1]]
    assert shares[1].isnan().all()  # never expected


@pytest.mark.parametrize("right", [0, 1, 37, 96, 100])
def test_interval_equals_scipys(right):
    low, high = scipy.stats.binomtest(right, 100).proportion_ci(0.95, method="wilson")
    assert metrics.wilson_interval(right / 100, 100) == pytest.approx((low, high), abs=1e-5)
