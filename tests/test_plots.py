"""Pictures of the scheduler notebook: labelled axes, and the data drawn where they belong."""

import pytest
import torch
from matplotlib.figure import Figure

from nitro_lab.plots import scheduler as plots
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.studies.shift import SweepPoint, Tick, read_clocks

ALPHAS = TimestepShiftLCMScheduler().alphas_cumprod
TICKS = [Tick(999, 499, 499), Tick(499, 249, None)]
POINTS = [SweepPoint(shift, 0.5, 0.1, 3.0 + shift / 500, 0.2, torch.zeros(1, 3, 4, 4)) for shift in (125, 250, 500)]
FIGURES = {
    "clocks": lambda: plots.clocks(TICKS),
    "explorer": lambda: plots.explorer(TICKS, ALPHAS),
    "timelines": lambda: plots.timelines({"shift 500": [TICKS[:1], TICKS]}),
    "amplification": lambda: plots.amplification(ALPHAS),
    "measured_errors": lambda: plots.measured_errors([999, 249], [1.4, 0.07], [1.39, 0.07], [0.5, 0.04]),
    "sweep": lambda: plots.sweep(POINTS, trained=250),
}


def points_of(axis, marker: str) -> list[tuple[int, int]]:
    """Data of all lines of an axis that are drawn with this marker, as (x, y)."""
    lines = [line for line in axis.lines if line.get_marker() == marker]
    return [(x, y) for line in lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def words_of(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_is_labelled_and_nothing_is_clipped(name):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    for axis in figure.axes:
        assert axis.get_xlabel()
        shares_its_scale = not axis.yaxis.get_tick_params()["labelleft"]
        assert axis.get_ylabel() or shares_its_scale
    figure.canvas.draw()
    page = figure.bbox.padded(2)
    inked = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
    assert page.x0 <= inked.x0
    assert page.y0 <= inked.y0
    assert inked.x1 <= page.x1
    assert inked.y1 <= page.y1


def test_clocks_show_true_and_told_times():
    axis = plots.clocks(TICKS).axes[0]
    assert [y for _, y in points_of(axis, plots.MARKS[plots.TRUE])] == [999, 499]
    assert [y for _, y in points_of(axis, plots.MARKS[plots.TOLD])] == [499, 249]
    assert {"999", "499", "249"} <= set(words_of(axis))


def test_fresh_noise_goes_up_to_the_next_true_time_and_not_after_the_last_step():
    axis = plots.clocks(TICKS).axes[0]
    ends = [text.xy for text in axis.texts if text.arrow_patch is not None]
    assert [end[1] for end in ends] == [499, 0, 499, 249, 0]  # told, x0, next latent; told, x0


def test_explorer_puts_each_time_at_its_sigma():
    axis = plots.explorer(TICKS, ALPHAS).axes[1]
    sigma = [((1 - ALPHAS[t]) / ALPHAS[t]).sqrt().item() for t in (499, 249)]
    drawn = points_of(axis, plots.MARKS[plots.TOLD])
    assert [y for _, y in drawn] == [499, 249]
    assert [float(x) for x, _ in drawn] == pytest.approx(sigma, rel=1e-4)


def test_timelines_have_a_row_for_each_number_of_steps():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    rows = [read_clocks(scheduler, steps) for steps in (1, 2, 3, 4)]
    first, second = plots.timelines({"a": rows, "b": rows}).axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["1", "2", "3", "4"]
    last = [x for x, y in points_of(second, plots.MARKS[plots.TOLD]) if y == pytest.approx(3.3)]
    assert last == [249, 187, 124, 62]


def test_amplification_marks_the_paper_s_numbers():
    text = " ".join(words_of(plots.amplification(ALPHAS).axes[0]))
    assert "14.65" in text
    assert "1.90" in text
    assert "1.22" in text


def test_sweep_has_error_bars_and_the_trained_shift():
    left, right = plots.sweep(POINTS, trained=250).axes
    for axis, values in ((left, [3.25, 3.5, 4.0]), (right, [0.5] * 3)):
        curve = axis.containers[0]
        assert list(curve.lines[0].get_ydata()) == pytest.approx(values)
        assert curve.has_yerr
        assert any(list(line.get_xdata()) == [250, 250] for line in axis.lines)
