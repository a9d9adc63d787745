"""The dashboard drives a real (tiny) training: it starts, holds, goes on and stops, and changes nothing of the run."""

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from event_loop import drive, until
from PIL import Image
from tiny_training import TINY, saved_step

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.runs.recording import Recording, record
from nitro_lab.studio import prepare
from nitro_lab.widgets import running
from nitro_lab.widgets.dashboard import Dashboard
from nitro_lab.widgets.running import Budget

CONFIG = replace(TINY, refresh=0.05, save_every=100)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return Recording(prepare(CONFIG, tmp_path), moments=2)


def shown(image) -> Image.Image:
    return Image.open(io.BytesIO(image.value)).convert("RGB")


def test_a_run_is_driven_by_buttons_and_gives_the_same_reports_as_without(recording, tmp_path):
    board = Dashboard(recording, "margin")
    first_map, first_samples = board.map_image.value, board.samples_image.value
    assert shown(board.map_image).width > 400
    assert board.curves_image.layout.display == "none"  # there are none yet
    assert board.map_image.layout.display is board.samples_image.layout.display is None
    assert (board.start_button.disabled, board.pause_button.disabled, board.stop_button.disabled) == (False, True, True)

    async def person() -> None:
        board.start_button.click()
        assert board.start_button.disabled
        await until(lambda: recording.step == 1)
        board.pause_button.click()
        assert board.pause_button.description == "Resume"
        assert "Paused." in board.words.value
        await asyncio.sleep(0.3)
        assert recording.step == 1
        board.pause_button.click()
        await until(lambda: recording.step == 2)
        board.stop_button.click()
        await until(lambda: board.task is None)
        assert "Stopped and saved." in board.words.value
        assert saved_step(tmp_path) == 2
        assert "to go" in board.words.value
        board.start_button.click()
        await until(lambda: board.task is None)

    drive(person())
    assert "Done." in board.words.value
    assert board.progress.value == CONFIG.steps
    assert 0 < board.drawing_share < 0.1
    assert board.start_button.disabled
    assert first_map != board.map_image.value
    assert first_samples != board.samples_image.value
    assert shown(board.curves_image).width > 400
    plain = record(Recording(prepare(CONFIG, tmp_path / "plain"), moments=2))
    assert sorted(recording.samples) == sorted(plain.samples) == [0, 2, 4]
    for name, column in plain.table().items():
        if name != "seconds":
            assert np.array_equal(column, recording.table()[name], equal_nan=True), name


def test_finish_takes_the_steps_that_are_left_and_two_starts_are_one(recording):
    board = Dashboard(recording)
    first_map = board.map_image.value

    async def person() -> None:
        board.start()
        board.start()
        await until(lambda: recording.step == 1)
        board.pause()
        await board.finish()

    drive(person())
    assert [report.step for report in recording.reports] == [1, 2, 3, 4]
    assert "Done." in board.words.value
    assert first_map != board.map_image.value


def test_a_plain_loop_takes_over_from_the_dashboard(recording):
    board = Dashboard(recording)

    async def person() -> None:
        board.start()
        await until(lambda: recording.step == 1)
        record(recording)
        await until(lambda: board.task is None)

    drive(person())
    assert [report.step for report in recording.reports] == [1, 2, 3, 4]
    assert "Done." in board.words.value


def test_an_error_is_shown_and_what_was_done_is_saved(recording, tmp_path, monkeypatch):
    board = Dashboard(recording)
    advance = recording.advance

    def fail_later():
        if recording.step == 1:
            raise FloatingPointError("loss is <nan>")
        return advance()

    monkeypatch.setattr(recording, "advance", fail_later)

    async def person() -> None:
        board.start()
        task = board.task
        await until(lambda: board.task is None)
        with pytest.raises(FloatingPointError):
            await task

    drive(person())
    assert "FloatingPointError:</b> loss is &lt;nan&gt;" in board.words.value
    assert saved_step(tmp_path) == 1


def test_another_colour_is_another_map(recording):
    board = Dashboard(recording)
    before = board.map_image.value
    board.colors.value = "updates"
    assert board.map_image.value != before


def test_drawing_keeps_to_its_budget(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(running, "perf_counter", lambda: clock[0])
    drawn = []

    def draw() -> None:
        clock[0] += 0.2
        drawn.append(clock[0])

    budget = Budget(draw, share=0.03)
    budget.now()
    assert budget.spent == 0  # before the training
    for step in range(1, 1001):
        budget.maybe(trained=0.1 * step)
        assert budget.spent <= 0.03 * 0.1 * step + 1e-9
    assert 14 <= len(drawn) - 1 <= 15  # 3 s of 100 s, in drawings of 0.2 s; the last may miss by a rounding
