"""Pictures of the refinement notebook: they show the numbers that they are given, whole, and once."""

import pytest
import torch
from matplotlib.colors import to_rgb
from test_plots_inference import assert_whole

from nitro_lab.evaluate import interval, radial_spectrum
from nitro_lab.plots import refinement as plots


def rows(distances: list[float], calls: int = 1) -> list[dict[str, str]]:
    return [
        {"steps": str(n), "calls": str(calls * n), "FD": str(d), "sharpness": "0.9"} for n, d in enumerate(distances, 1)
    ]


EXAMS = {"refined student": rows([4.0, 3.0, 2.5]), "teacher": rows([9.0, 2.0], calls=2)}


def test_lighter_is_red_darker_is_blue_and_the_same_is_white():
    before, after = torch.zeros(1, 3, 1, 3), torch.tensor([[[[1.0, -1.0, 0.0]]]]).expand(1, 3, 1, 3)
    (picture,) = plots.signed_pictures(before, after)
    lighter, darker, same = (picture.getpixel((place, 0)) for place in range(3))
    assert lighter[0] > 2 * lighter[2]
    assert darker[2] > 2 * darker[0]
    assert min(same) > 240


def test_spectra_are_shares_of_the_picture():
    pictures = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    curves = {"half": radial_spectrum(pictures / 2), "picture": radial_spectrum(pictures)}
    figure = plots.change_spectra(curves, "picture")
    assert_whole(figure)
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "half"]
    assert line.get_ydata() == pytest.approx(0.25)


def test_accuracy_carries_its_interval():
    marks = {1: {"texture": 0.5, "all": 0.25}, 2: {"texture": 0.75, "all": 0.5}}
    figure = plots.accuracy_by_steps(marks, ("texture", "all"), images=100)
    assert_whole(figure)
    first = figure.axes[0].containers[0]
    ends = first.lines[2][0].get_segments()[0][:, 1]
    assert tuple(ends) == pytest.approx(interval(0.5, 100))


def test_likeness_curves_name_their_medians():
    figure = plots.likeness_curves({"2 steps": torch.tensor([0.1, 0.5, 0.9])})
    assert_whole(figure)
    assert figure.axes[0].get_legend_handles_labels()[1] == ["2 steps: median 0.50"]


def test_frontier_shows_passes_and_seconds():
    seconds = {"teacher": {1: 0.1, 2: 0.2}}
    figure = plots.frontier(EXAMS, seconds)
    assert_whole(figure)
    left, right = figure.axes
    teacher = {line.get_label(): line for line in left.lines}["teacher"]
    assert list(teacher.get_xdata()) == [2, 4]
    assert list(teacher.get_ydata()) == [9, 2]
    timed = {line.get_label(): list(line.get_xdata()) for line in right.lines}
    assert timed == {"refined student": [], "teacher": [0.1, 0.2]}
    assert [text.get_text() for text in right.texts] == ["1", "2"]


def test_orders_are_told_apart_by_colour_and_marker():
    figure = plots.orders(EXAMS)
    assert_whole(figure)
    for axis in figure.axes:
        assert len({to_rgb(line.get_color()) for line in axis.lines}) == len(EXAMS)
        assert len({line.get_marker() for line in axis.lines}) == len(EXAMS)
