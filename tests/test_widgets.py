"""The scheduler's explorer: its picture follows the sliders, and impossible schedules are explained in words."""

import io

import pytest
from PIL import Image

from nitro_lab.plots.canvas import png
from nitro_lab.widgets.shift_explorer import draw_schedule, scheduler_explorer


@pytest.fixture
def explorer():
    *sliders, message, picture = scheduler_explorer(shift=250, steps=2, length=4).children
    return {slider.description: slider for slider in sliders}, message, picture


@pytest.mark.parametrize(("name", "value"), [("shift", 500), ("steps", 3), ("schedule length", 5)])
def test_a_slider_changes_the_picture(explorer, name, value):
    sliders, message, picture = explorer
    before = picture.value
    sliders[name].value = value
    assert picture.value != before
    assert Image.open(io.BytesIO(picture.value)).format == "PNG"
    assert message.value == ""


def test_the_picture_is_that_of_the_sliders(explorer):
    sliders, _, picture = explorer
    sliders["shift"].value = 500
    assert picture.value == png(draw_schedule(shift=500, steps=2, length=4))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("shift", 1, "two steps become the same"), ("steps", 5, "from 1 to original_inference_steps (4)")],
)
def test_what_does_not_go_together_is_said_in_the_scheduler_s_words(explorer, name, value, words):
    sliders, message, picture = explorer
    possible = sliders[name].value
    before = picture.value
    sliders[name].value = value
    assert words in message.value
    assert picture.layout.display == "none"
    sliders[name].value = possible
    assert message.value == ""
    assert picture.layout.display != "none"
    assert picture.value == before


def test_the_picture_follows_while_a_slider_is_dragged(explorer):
    sliders, _, _ = explorer
    assert all(slider.continuous_update for slider in sliders.values())
