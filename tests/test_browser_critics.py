"""The dashboard in a browser: a person starts a run, holds it, goes on, stops it, and sees other pictures."""

import io

import pytest
from browser import jupyter_lab, open_notebook, write_notebook
from PIL import Image, ImageStat

MAP, CURVES, SAMPLES = range(3)
STEPS = 500  # more than the test waits for
SETUP = f"""
from pathlib import Path
from nitro_lab.distill_config import DistillConfig
from nitro_lab.runs.recording import Recording
from nitro_lab.studio import prepare
from nitro_lab.widgets.dashboard import Dashboard

config = DistillConfig(
    steps={STEPS}, batch_size=2, reals=4, teacher_steps=1, teacher_guidance=1.0, width=8, refresh=0.02, warm_up=0
)
recording = Recording(prepare(config, Path("run")))
"""


@pytest.fixture(scope="module")
def notebook(chromium, tmp_path_factory):
    """A page with the dashboard on it."""
    folder = tmp_path_factory.mktemp("dashboard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write_notebook(folder / "run.ipynb", SETUP.strip(), 'Dashboard(recording, "margin")', "recording.step")
        with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "run.ipynb") as page:
            page.run_all_cells()
            yield page
            assert page.errors == []


def shown(notebook, index: int) -> Image.Image:
    """A picture that the browser holds."""
    return Image.open(io.BytesIO(notebook.picture_bytes(index))).convert("RGB")


def test_nothing_runs_before_start(notebook):
    assert notebook.step() == 0
    for index in (MAP, SAMPLES):
        assert max(ImageStat.Stat(shown(notebook, index)).stddev) > 5  # not a blank
    assert notebook.button("Pause").is_disabled()
    notebook.keep_screenshot("dashboard_before")


def test_start_pause_resume_stop(notebook):
    map_before, samples_before = notebook.picture(MAP), notebook.picture(SAMPLES)
    notebook.button("Start").click()
    notebook.wait_for_step(2)
    notebook.button("Pause").click()
    notebook.button("Resume").wait_for()
    notebook.page.get_by_text("Paused.").wait_for()
    notebook.wait_for_new_picture(map_before, MAP)
    notebook.wait_for_new_picture(samples_before, SAMPLES)
    assert shown(notebook, CURVES).width > 400
    held = notebook.step()
    notebook.page.wait_for_timeout(1500)
    assert notebook.step() == held >= 2
    notebook.keep_screenshot("dashboard_paused")

    curves_before = notebook.picture(CURVES)
    notebook.button("Resume").click()
    notebook.wait_for_step(held + 2)
    notebook.button("Stop").click()
    notebook.page.get_by_text("Stopped and saved.").wait_for()
    notebook.wait_for_new_picture(curves_before, CURVES)
    assert held + 2 <= notebook.step() < STEPS
    assert "drawing" in notebook.progress()
    notebook.keep_screenshot("dashboard_stopped")

    stopped = notebook.step()
    notebook.button("Start").click()
    notebook.wait_for_step(stopped + 1)
    notebook.button("Stop").click()
    notebook.page.get_by_text("Stopped and saved.").wait_for()


def test_another_colour_is_another_map(notebook):
    before = notebook.picture(MAP)
    notebook.page.locator(".widget-dropdown select").select_option("age")
    notebook.wait_for_new_picture(before, MAP)


def test_the_kernel_answers_while_a_run_goes_on(notebook):
    notebook.button("Start").click()
    before = notebook.step()
    notebook.wait_for_step(before + 1)
    cell = notebook.page.locator(".jp-CodeCell").nth(2)
    count = cell.locator(".jp-InputArea-prompt").inner_text()
    cell.locator(".cm-content").click()
    notebook.page.keyboard.press("Control+Enter")
    answered = """before => {
        const count = document.querySelectorAll('.jp-CodeCell')[2].querySelector('.jp-InputArea-prompt').textContent;
        return count !== before && !count.includes('*');
    }"""
    notebook.page.wait_for_function(answered, arg=count)
    assert int(cell.locator(".jp-OutputArea-output pre").inner_text()) > 0  # steps, as the kernel counts them
    notebook.button("Stop").click()
    notebook.page.get_by_text("Stopped and saved.").wait_for()
    assert notebook.page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
