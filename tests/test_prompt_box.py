"""The prompt box without a browser: what its controls do to the image and to the note."""

import io

import pytest
from PIL import Image

from nitro_lab.sampling import sample_image
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.widgets.prompt_box import prompt_box

PROMPT = "a large striped red star at the top on a sunset background"


@pytest.fixture
def student(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    return untrained_pipeline


@pytest.mark.filterwarnings("error")
def test_controls_change_the_image_and_back(student):
    prompt, seed, steps, image, note = prompt_box(student, PROMPT).children
    first = image.value
    expected, _ = sample_image(student, PROMPT, seed=0, num_inference_steps=1)
    assert Image.open(io.BytesIO(first)).resize(expected.size, Image.Resampling.NEAREST).tobytes() == expected.tobytes()
    for control, value in [(prompt, "a large red dragon"), (prompt, ""), (seed, 7), (steps, 4)]:
        old, control.value = control.value, value
        assert image.value != first
        assert note.value.count("dragon") == (value == "a large red dragon")  # an unknown word is named once
        control.value = old
        assert (image.value, note.value) == (first, "")


def test_remarks_are_escaped_and_guidance_is_passed_on(student, monkeypatch):
    def sample(*arguments):
        return Image.new("RGB", (64, 64)), [f"<b> {arguments[-1]}"]

    monkeypatch.setattr("workbook.widgets.prompt_box.sample_image", sample)
    assert "&lt;b&gt; 3.5" in prompt_box(student, PROMPT, guidance_scale=3.5).children[4].value
