"""The metrics against closed forms, plain loops and kept libraries."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from prdc import compute_prdc

from nitro_lab.evaluate import (
    caption_accuracy,
    confusion,
    frechet_distance,
    interval,
    kernel_distance,
    manifold_scores,
    radial_spectrum,
    repetition_rate,
    sharpness,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def two_sets() -> tuple[torch.Tensor, torch.Tensor]:
    """Correlated, shifted, of different sizes. (300, 6) and (200, 6)."""
    return normal(300, 6) @ normal(6, 6, seed=1), normal(200, 6, seed=2) @ normal(6, 6, seed=3) + 0.5


def with_moments(count: int, mean: torch.Tensor, covariance: torch.Tensor, seed: int) -> torch.Tensor:
    """Points whose sample mean and covariance are exactly these."""
    points = normal(count, len(mean), seed=seed)
    points = points - points.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(torch.cov(points.T)), points.T, upper=False).T
    return white @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_diagonal_gaussians():
    """Closed form for commuting covariances: |μ − ν|² + Σ (√a − √b)²."""
    a, b = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    mean = torch.tensor([1.0, -2.0, 0.5]).double()
    x = with_moments(500, torch.zeros(3).double(), a.diag(), 0)
    y = with_moments(400, mean, b.diag(), 1)
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_with_scipys_matrix_root(two_sets):
    x, y = (points.numpy() for points in two_sets)
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(*two_sets) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*reversed(two_sets)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_set_to_itself_is_zero_even_with_fewer_points_than_dimensions():
    assert frechet_distance(normal(100, 5), normal(100, 5)) == pytest.approx(0, abs=1e-9)
    few = normal(10, 20)
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-4)


def test_kernel_distance_with_a_plain_double_loop():
    x, y = normal(12, 4).tolist(), (normal(9, 4, seed=1) + 0.3).tolist()

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / 4 + 1) ** 3

    def within(points):
        pairs = [kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in x for b in y]
    expected = within(x) + within(y) - 2 * sum(across) / len(across)
    assert kernel_distance(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_is_unbiased():
    """Zero on average for draws of one distribution, and sometimes negative."""
    values = torch.tensor(
        [kernel_distance(normal(40, 3, seed=2 * i), normal(40, 3, seed=2 * i + 1)) for i in range(200)]
    )
    assert values.min() < 0
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize("neighbors", [1, 3, 5])
def test_manifold_scores_with_the_authors_library(two_sets, neighbors):
    expected = compute_prdc(two_sets[0].numpy(), two_sets[1].numpy(), nearest_k=neighbors)
    assert manifold_scores(*two_sets, neighbors) == pytest.approx(expected)


def test_manifold_scores_need_neighbors():
    with pytest.raises(ValueError, match="neighbors is 5"):
        manifold_scores(normal(20, 2), normal(5, 2))


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, manifold_scores])
@pytest.mark.parametrize("shapes", [((20, 3), (20, 4)), ((20,), (20, 1))])
def test_sets_of_other_shapes_are_refused(distance, shapes):
    with pytest.raises(ValueError, match=r"features must be \(N, D\) and \(M, D\)"):
        distance(normal(*shapes[0]), normal(*shapes[1]))


def test_spectrum_of_white_noise_is_flat_at_its_variance():
    frequency, power = radial_spectrum(normal(64, 3, 32, 32) * 0.5)
    assert frequency.tolist() == [ring / 32 for ring in range(1, 17)]
    torch.testing.assert_close(power, torch.full((16,), 0.25).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize(("across", "down"), [(5, 0), (0, 9), (3, 4)])
def test_spectrum_of_a_wave_is_one_ring(across, down):
    """A cosine of amplitude A on H×H pixels holds the power A²H²/4 at each of its two frequencies."""
    side, amplitude = 32, 0.7
    ticks = torch.arange(side).double() / side
    wave = amplitude * torch.cos(2 * math.pi * (across * ticks + down * ticks[:, None]))
    frequency, power = radial_spectrum(wave.expand(2, 3, side, side))
    ring = round(math.hypot(across, down))
    axis = np.fft.fftfreq(side) * side
    members = np.sum(np.round(np.hypot(axis, axis[:, None])) == ring)
    assert frequency[power.argmax()].item() == ring / side
    assert power[ring - 1].item() == pytest.approx(2 * amplitude**2 * side**2 / 4 / members)
    assert power.sum().item() == pytest.approx(power[ring - 1].item())


def test_spectrum_keeps_the_variance():
    """Parseval: a smooth picture, without power beyond Nyquist's ring, has the sum of its rings as its variance."""
    side = 32
    axis = torch.fft.fftfreq(side).double() * side
    inside = torch.hypot(axis, axis[:, None]).round() <= side // 2
    picture = torch.fft.ifft2(torch.fft.fft2(normal(1, 1, side, side)) * inside).real
    _, power = radial_spectrum(picture)
    members = torch.bincount(torch.hypot(axis, axis[:, None]).round().long().flatten())[1 : side // 2 + 1]
    assert (power * members).sum().item() / side**2 == pytest.approx(picture.var(correction=0).item(), rel=1e-9)


def test_sharpness_falls_with_every_blur():
    picture = normal(4, 3, 32, 32)
    marks = [sharpness(torch.nn.functional.avg_pool2d(picture, size, 1, size // 2)) for size in (1, 3, 5, 7)]
    assert marks == sorted(marks, reverse=True)
    assert marks[0] > 5 * marks[-1]


def test_sharpness_ignores_brightness_and_slow_change():
    picture = normal(2, 3, 32, 32)
    ramp = torch.cos(2 * math.pi * torch.arange(32).double() / 32)
    assert sharpness(picture + 5 + ramp) == pytest.approx(sharpness(picture))


def test_caption_accuracy_counted_by_hand():
    asked = torch.tensor([[0, 1, 2], [1, 1, 0], [0, 0, 0], [3, 3, 3]])
    guesses = torch.tensor([[0, 1, 2], [1, 0, 0], [0, 0, 1], [0, 3, 1]])
    marks = caption_accuracy(guesses, asked, ("size", "color", "shape"))
    assert marks == {"size": 0.75, "color": 0.75, "shape": 0.5, "all": 0.25}


def test_caption_accuracy_wants_a_name_for_each_factor():
    with pytest.raises(ValueError, match="zip"):
        caption_accuracy(torch.zeros(2, 3), torch.zeros(2, 3), ("size", "color"))


def test_confusion_counted_by_hand():
    asked, read = torch.tensor([0, 0, 0, 0, 2]), torch.tensor([0, 1, 1, 2, 2])
    shares = confusion(read, asked, 3)
    assert shares[[0, 2]].tolist() == [[0.25, 0.5, 0.25], [0, 0, 1]]
    assert shares[1].isnan().all()  # never asked for


def test_repetition_counted_by_hand():
    assert repetition_rate(torch.tensor([1, 2, 0, 4, 1, 1, 3, 1])) == 0.375


@pytest.mark.parametrize("right", [0, 1, 37, 96, 100])
def test_interval_is_the_one_of_statistics_libraries(right):
    low, high = scipy.stats.binomtest(right, 100).proportion_ci(0.95, method="wilson")
    assert interval(right / 100, 100) == pytest.approx((low, high), abs=1e-5)


def test_interval_stays_between_zero_and_one_and_has_a_width_there():
    low, high = interval(0.0, 1000)
    assert low == 0
    assert 0 < high < 0.01
    assert interval(1.0, 1000) == pytest.approx((1 - high, 1))
    assert interval(1.0, 1000)[1] <= 1


def test_interval_holds_the_truth_nineteen_times_of_twenty():
    hits = torch.rand(4000, 500, generator=torch.Generator().manual_seed(0)) < 0.8
    shares = hits.double().mean(1).tolist()
    ends = [interval(share, 500) for share in shares]
    held = sum(low <= 0.8 <= high for low, high in ends) / len(ends)
    assert held == pytest.approx(0.95, abs=0.015)
