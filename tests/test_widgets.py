"""The shift explorer: its figure follows the sliders, and schedules that are not valid show the scheduler's error."""

import pytest

from nitro_lab.plots.canvas import png
from workbook.shift_explorer import plot_schedule, shift_explorer

START = {"shift": 250, "num_inference_steps": 2, "original_inference_steps": 4}


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        ("shift", 500, True),
        ("num_inference_steps", 3, True),
        ("original_inference_steps", 5, True),
        ("shift", 1, False),
        ("num_inference_steps", 5, False),
    ],
)
def test_a_slider_changes_the_figure_or_shows_the_schedulers_error(name, value, valid):
    *sliders, message, figure = shift_explorer(**START).children
    assert figure.value == png(plot_schedule(**START))
    next(slider for slider in sliders if slider.description == name).value = value
    assert (figure.layout.display == "") == valid
    if valid:
        assert figure.value == png(plot_schedule(**START | {name: value}))
    assert (name.split("_")[-1] in message.value and str(value) in message.value) != valid
