"""The lab bench in a browser: a person chooses a head, starts both variants, stops and keeps them."""

import pytest
from browser import jupyter_lab, open_notebook, write_notebook

PICTURES, CURVES = range(2)
STEPS = 150  # more than the test waits for
SETUP = f"""
from nitro_lab.distill_config import DistillConfig
from nitro_lab.widgets.lab_bench import LabBench

config = DistillConfig(
    steps={STEPS}, batch_size=2, reals=4, captions=4, teacher_steps=1, teacher_guidance=1.0, width=8, warm_up=0
)
"""


@pytest.fixture(scope="module")
def notebook(chromium, tmp_path_factory):
    """A page with the bench on it."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        write_notebook(folder / "bench.ipynb", SETUP.strip(), "LabBench(config)")
        with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "bench.ipynb") as page:
            page.run_all_cells()
            page.folder = folder
            yield page
            assert page.errors == []


def choose(notebook, control: str, word: str) -> None:
    notebook.field(control).locator("select").select_option(word)


def test_a_moved_control_is_another_call(notebook):
    call = notebook.page.locator(".widget-html-content pre")
    assert 'EXAMPLES["spectral"]' in call.inner_text()
    choose(notebook, "B head", "Gram matrix")
    choose(notebook, "B retire", "the oldest")
    notebook.page.get_by_text("import retire_oldest").wait_for()
    assert '"B": {"head": EXAMPLES["Gram matrix"], "retire": retire_oldest},' in call.inner_text()
    assert notebook.step() == 0
    assert notebook.button("Keep").is_disabled()


def test_start_stop_keep(notebook):
    notebook.button("Start").click()
    notebook.wait_for_step(1)
    assert notebook.button("Keep").is_disabled()
    assert notebook.field("B head").locator("select").is_disabled()
    first = notebook.picture(PICTURES)
    notebook.wait_for_step(2)
    notebook.button("Stop").click()
    notebook.page.get_by_text("Stopped.").wait_for()
    notebook.wait_for_new_picture(first, PICTURES)
    stopped, curves = notebook.step(), notebook.picture(CURVES)
    assert 2 <= stopped < STEPS
    notebook.page.wait_for_timeout(1000)
    assert notebook.step() == stopped
    notebook.keep_screenshot("lab_bench_stopped")

    notebook.button("Start").click()
    notebook.wait_for_step(stopped + 1)
    notebook.button("Stop").click()
    notebook.page.get_by_text("Stopped.").wait_for()
    notebook.wait_for_new_picture(curves, CURVES)

    notebook.button("Keep").click()
    notebook.page.get_by_text("Kept in build/lab_bench/").wait_for()
    (kept,) = (notebook.folder / "build" / "lab_bench").iterdir()
    assert "Gram matrix" in (kept / "call.py").read_text()
    assert (kept / "A" / "student.safetensors").is_file()
    assert (kept / "B" / "student.safetensors").is_file()
    assert notebook.page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
