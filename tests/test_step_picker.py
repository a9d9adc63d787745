"""The picker of steps without a browser: what its controls do to the pictures."""

import io

import pytest
from PIL import Image

from nitro_lab.plots.canvas import enlarge
from nitro_lab.sampling import imagine
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.widgets.step_picker import SIDE, step_picker

PROMPT = "a large striped red star at the top on a sunset background"


@pytest.fixture
def student(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    return untrained_pipeline


def picture(column) -> bytes:
    return Image.open(io.BytesIO(column.children[0].value)).tobytes()


def test_every_number_of_steps_has_its_picture_and_its_time(student):
    *_, columns, _ = step_picker(student, PROMPT, seed=2).children
    for steps, column in zip((1, 2, 3, 4), columns.children, strict=True):
        assert picture(column) == enlarge(imagine(student, PROMPT, 2, steps)[0], SIDE).tobytes()
        assert column.children[1].value.startswith(f"{steps} step")
        assert column.children[1].value.endswith(" ms")


def test_words_and_seed_change_all_pictures_and_a_switch_hides_one(student):
    text, seed, switches, columns, remark = step_picker(student, PROMPT).children
    before = [picture(column) for column in columns.children]
    seed.value = 9
    after = [picture(column) for column in columns.children]
    assert all(a != b for a, b in zip(before, after, strict=True))
    switches.children[1].value = False
    assert [column.layout.display for column in columns.children] == ["", "none", "", ""]
    text.value = "a large purple dragon"
    assert remark.value.count("dragon") == 1
    assert picture(columns.children[1]) == after[1]  # hidden: it costs nothing
    switches.children[1].value = True
    assert picture(columns.children[1]) == enlarge(imagine(student, text.value, 9, 2)[0], SIDE).tobytes()
