"""The dashboard starts, pauses, resumes and stops a real (tiny) training, and does not change its results."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_training import saved_step, tiny
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.training.run import TrainingRun
from workbook.widgets.dashboard import Dashboard

CONFIG = tiny(refresh_rate=0.05, checkpointing_steps=100)


def drive(actions: Coroutine) -> None:
    """Run actions in a thread: once Playwright has been used, its event loop occupies the main thread."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, actions).result()


async def until(condition: Callable[[], object]) -> None:
    for _ in range(60_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise TimeoutError


@pytest.fixture
def run(tmp_path) -> TrainingRun:
    return TrainingRun(CONFIG, tmp_path / "run")


def enabled(board: Dashboard) -> list[bool]:
    return [not button.disabled for button in (board.start_button, board.pause_button, board.stop_button)]


def test_buttons_drive_a_run_with_the_same_reports_as_a_plain_loop(run, tmp_path):
    board = Dashboard(run, "logit_gap")
    before = board.map_image.value, board.samples_image.value
    assert enabled(board) == [True, False, False]

    async def user() -> None:
        board.start_button.click()
        assert enabled(board) == [False, True, True]
        await until(lambda: run.step == 1)
        board.pause_button.click()
        assert board.pause_button.description == "Resume"
        await asyncio.sleep(0.3)
        assert run.step == 1
        board.pause_button.click()
        await until(lambda: run.step == 2)
        board.stop_button.click()
        await until(lambda: board.task is None)
        assert enabled(board) == [True, False, False]
        assert saved_step(run.folder) == 2
        board.start_button.click()
        await until(lambda: board.task is None)

    drive(user())
    assert board.progress.value == CONFIG.max_train_steps
    assert enabled(board) == [False, False, False]
    by_gap = board.map_image.value
    board.colors.value = "updates"
    assert len({before[0], by_gap, board.map_image.value}) == 3
    assert before[1] != board.samples_image.value
    assert Image.open(io.BytesIO(board.curves_image.value)).width > 400
    plain = TrainingRun(CONFIG, tmp_path / "plain")
    list(plain.steps())
    pd.testing.assert_frame_equal(run.table().drop(columns="seconds"), plain.table().drop(columns="seconds"))


@pytest.mark.parametrize("same_object", [True, False])
def test_a_new_dashboard_takes_over_from_one_that_trains(run, same_object):
    old = Dashboard(run)

    async def user() -> None:
        old.start()
        old.start()  # a second click
        await until(lambda: run.step == 1)
        old.pause()
        again = run if same_object else TrainingRun(CONFIG, run.folder)
        new = Dashboard(again)
        assert saved_step(run.folder) == 1
        await new.finish()
        assert old.task is new.task is None
        assert [report.step for report in again.reports][-3:] == [2, 3, 4]

    drive(user())
    assert list(run.table()["step"]) == [1, 2, 3, 4]


def test_a_training_elsewhere_is_not_disturbed(run):
    steps, board = TrainingRun(CONFIG, run.folder).steps(), Dashboard(run)
    next(steps)
    with pytest.raises(ValueError, match=str(run.folder)):
        drive(board.finish())
    assert "ValueError" in board.status.value
    assert enabled(board) == [True, False, False]
    assert [report.step for report in steps] == [2, 3, 4]


def test_a_finished_run_is_shown_as_done(run):
    list(run.steps())
    trained, state = run.sample_images(), run.state.pool.stats()["updates"]
    again = TrainingRun(CONFIG, run.folder)
    board = Dashboard(again)
    assert enabled(board) == [False, False, False]
    assert board.progress.value == 4
    drive(board.finish())
    assert "Error" not in board.status.value
    assert torch.equal(again.sample_images(), trained)
    assert torch.equal(again.state.pool.stats()["updates"], state)


def test_interrupting_finish_stops_and_saves(run):
    board = Dashboard(run)

    async def user() -> None:
        board.start()
        board.stop()  # before the first step
        await until(lambda: board.task is None)
        cell = asyncio.ensure_future(board.finish())
        await until(lambda: run.step == 1)
        cell.cancel()  # what the kernel does with a cell that is interrupted
        with pytest.raises(asyncio.CancelledError):
            await cell
        assert board.task is None

    drive(user())
    assert saved_step(run.folder) == run.step == 1
