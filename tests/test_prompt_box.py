"""The prompt box without a browser: what the controls do to the picture and to the note."""

import io
import warnings

import ipywidgets as widgets
import pytest
from PIL import Image, ImageChops

from nitro_lab.sampling import imagine
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.widgets.prompt_box import SIDE, prompt_box

PROMPT = "a large striped red star at the top on a sunset background"


@pytest.fixture
def student(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    return untrained_pipeline


@pytest.fixture
def box(student) -> dict[str, widgets.Widget]:
    """The parts of a box, by name."""
    names = ("prompt", "seed", "steps", "picture", "note")
    return dict(zip(names, prompt_box(student, PROMPT).children, strict=True))


def shown(box: dict[str, widgets.Widget]) -> Image.Image:
    """The picture that is on the screen."""
    return Image.open(io.BytesIO(box["picture"].value))


def differ(a: Image.Image, b: Image.Image) -> bool:
    return ImageChops.difference(a, b).getbbox() is not None


def test_box_opens_with_the_picture_of_its_prompt(box, student):
    assert shown(box).size == (SIDE, SIDE)
    assert box["note"].value == ""
    expected, remarks = imagine(student, PROMPT, seed=0, steps=1)
    assert not differ(shown(box).resize(expected.size, Image.Resampling.NEAREST), expected)
    assert remarks == []


@pytest.mark.parametrize(("control", "value"), [("prompt", "a small solid blue ring"), ("seed", 7), ("steps", 4)])
def test_each_control_changes_the_picture_and_back(box, control, value):
    before, old = shown(box), box[control].value
    box[control].value = value
    assert differ(before, shown(box))
    box[control].value = old
    assert not differ(before, shown(box))


def test_unknown_word_is_named_once_and_the_picture_is_made(box):
    before = shown(box)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing leaks into the cell's output
        box["prompt"].value = "a large red dragon"
    assert box["note"].value.count("dragon") == 1
    assert "triangle" in box["note"].value  # the words that it knows
    assert differ(before, shown(box))
    box["prompt"].value = PROMPT
    assert box["note"].value == ""


def test_empty_prompt_is_a_prompt(box):
    before = shown(box)
    box["prompt"].value = ""
    assert differ(before, shown(box))
    assert box["note"].value == ""


def test_a_prompt_that_is_too_long_is_cut_and_says_so(student):
    _, remarks = imagine(student, "red " * 30, seed=0, steps=1)
    assert remarks == ["The prompt has 30 words or pieces of words; only the first 22 are read."]
    assert imagine(student, "red " * 22, seed=0, steps=1)[1] == []


def test_guidance_reaches_the_pipeline(untrained_pipeline):
    plain, guided = (imagine(untrained_pipeline, PROMPT, 0, 2, guidance)[0] for guidance in (0.0, 3.0))
    assert differ(plain, guided)


def test_a_remark_cannot_smuggle_html_in(student, monkeypatch):
    monkeypatch.setattr("nitro_lab.widgets.prompt_box.imagine", lambda *_: (Image.new("RGB", (64, 64)), ["<b>&"]))
    assert "&lt;b&gt;&amp;" in prompt_box(student, PROMPT).children[-1].value
