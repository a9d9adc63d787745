"""Figures of the inference notebook show the values that they are given."""

import pytest
import torch

from workbook.figures import inference as plots
from workbook.timing import CallTimes


def test_spectra_and_their_ratio_to_the_reference():
    frequency = torch.arange(1, 33) / 64
    curves = {"renders": (frequency, 1 / frequency), "student": (frequency, 0.3 / frequency)}
    left, right = plots.spectra(curves, "renders").axes
    assert left.lines[1].get_ydata() == pytest.approx(curves["student"][1].numpy())
    assert right.lines[1].get_ydata() == pytest.approx([0.3] * 32)


def test_confusions_are_percentages():
    matrix = torch.tensor([[0.75, 0.25], [torch.nan, torch.nan]])
    left, _ = plots.confusions({"teacher": matrix, "student": matrix}, ("striped", "checkered")).axes
    assert [text.get_text() for text in left.texts] == ["75", "25", "–", "–"]


def test_time_bars_add_up_to_the_call():
    call = CallTimes(0.01, 0.04, 0.02, 0.03, fastest=0.09, slowest=0.13)
    left, right = plots.time_bars({"1-step student": call}).axes
    assert [bar.get_width() for bar in left.patches[:4]] == pytest.approx([10, 40, 20, 30])  # milliseconds
    assert sum(bar.get_width() for bar in right.patches[:4]) == pytest.approx(1)


def test_throughput_curve_goes_through_the_medians():
    left, right = plots.throughput_curve({1: [20.0, 22.0, 21.0], 64: [50.0, 50.0, 10.0]}).axes
    assert list(left.lines[1].get_ydata()) == [21, 50]
    assert list(right.lines[1].get_ydata()) == pytest.approx([1 / 21, 64 / 50])


def test_full_size_bars_count_two_bytes_per_parameter():
    figure = plots.full_size_bars({"UNet": 2_500_000_000, "VAE": 100_000_000}, {"VAE": 10 * 10**12, "UNet": 7 * 10**12})
    assert [[bar.get_width() for bar in axis.patches] for axis in figure.axes] == [[5.0, 0.2], [7.0, 10.0]]
