"""The dashboard in a browser: start, pause, resume and stop a run, while the kernel stays usable."""

import io

from browser import jupyter_lab, open_notebook, write_notebook
from PIL import Image, ImageStat

MAP, CURVES, SAMPLES = range(3)
STEPS = 500  # more than the test waits for
SETUP = f"""
from pathlib import Path
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.run import TrainingRun
from workbook.widgets.dashboard import Dashboard

teacher = dict(num_real_samples=4, num_prompts=8, teacher_num_inference_steps=1, teacher_guidance_scale=1.0)
config = DistillConfig(max_train_steps={STEPS}, batch_size=2, head_width=8, disc_warmup_steps=0, **teacher)
run = TrainingRun(config, Path("run"))
"""


def test_a_run_starts_pauses_resumes_and_stops_while_other_cells_run(chromium, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_notebook(tmp_path / "run.ipynb", SETUP.strip(), 'Dashboard(run, "logit_gap")', "run.step")
    with jupyter_lab(tmp_path) as lab, open_notebook(chromium, lab, "run.ipynb") as notebook:
        notebook.run_all_cells()
        assert notebook.step() == 0
        for index in (MAP, SAMPLES):
            image = Image.open(io.BytesIO(notebook.picture_bytes(index))).convert("RGB")
            assert max(ImageStat.Stat(image).stddev) > 5
        before = {index: notebook.picture(index) for index in (MAP, SAMPLES)}
        notebook.button("Start").click()
        notebook.wait_for_step(2)
        notebook.button("Pause").click()
        notebook.button("Resume").wait_for()
        for index, picture in before.items():
            notebook.wait_for_new_picture(picture, index)
        paused, curves = notebook.step(), notebook.picture(CURVES)
        notebook.page.wait_for_timeout(1500)
        assert notebook.step() == paused >= 2
        notebook.keep_screenshot("dashboard_paused")
        notebook.button("Resume").click()
        notebook.wait_for_step(paused + 2)
        cell = notebook.page.locator(".jp-CodeCell").nth(2)
        cell.locator(".cm-content").click()
        notebook.page.keyboard.press("Control+Enter")
        printed = "() => Number([...document.querySelectorAll('.jp-OutputArea-output pre')].at(-1)?.innerText) > 0"
        notebook.page.wait_for_function(printed)  # it was 0 when all cells ran
        notebook.button("Stop").click()
        notebook.page.get_by_text("Stopped and saved.").wait_for()
        assert paused + 2 <= notebook.step() < STEPS
        notebook.wait_for_new_picture(curves, CURVES)
        notebook.check_outputs()
        assert notebook.errors == []
