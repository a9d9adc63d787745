"""The explorer of notebook 01 in a real browser: every slider is moved, and the figure must follow."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("playwright")

from browser import NotebookPage, jupyter_lab, open_notebook, write_notebook

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FIGURE = "img.widget-image"


@pytest.fixture(scope="module")
def explorer(chromium, tmp_path_factory) -> Iterator[NotebookPage]:
    """A page of JupyterLab that shows the explorer, at shift 250, two steps of four."""
    folder = tmp_path_factory.mktemp("lab")
    cells = (
        f"import sys\nsys.path.append({str(NOTEBOOKS)!r})\nfrom workbook.shift_explorer import shift_explorer",
        "shift_explorer(shift=250, num_inference_steps=2, original_inference_steps=4)",
    )
    write_notebook(folder / "explorer.ipynb", *cells)
    with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "explorer.ipynb") as notebook:
        notebook.run_all_cells()
        yield notebook
        assert notebook.errors == []


def figure(explorer: NotebookPage) -> str:
    """The figure's PNG, as a data address."""
    image = explorer.page.locator(FIGURE)
    image.wait_for()
    return image.get_attribute("src") or ""


def wait_for_new_figure(explorer: NotebookPage, before: str) -> None:
    image = f"document.querySelector('{FIGURE}')"
    explorer.page.wait_for_function(f"before => {image}?.naturalWidth > 0 && {image}.src !== before", arg=before)


@pytest.mark.parametrize(
    ("name", "value"), [("shift", 500), ("num_inference_steps", 3), ("original_inference_steps", 9)]
)
def test_the_figure_follows_a_typed_number_and_a_dragged_handle(explorer, name, value):
    before = figure(explorer)
    explorer.set_slider(name, value)
    wait_for_new_figure(explorer, before)
    explorer.keep_screenshot(f"scheduler_{name}")
    before = figure(explorer)
    explorer.press_slider(name)
    wait_for_new_figure(explorer, before)


def test_an_invalid_schedule_is_explained_in_place_of_the_figure(explorer):
    explorer.set_slider("shift", 1)
    message = explorer.page.get_by_text("shifted_timestep 1 maps")
    message.wait_for()
    explorer.page.locator(FIGURE).wait_for(state="hidden")
    explorer.keep_screenshot("scheduler_message")
    explorer.set_slider("shift", 250)
    explorer.page.locator(FIGURE).wait_for(state="visible")
    message.wait_for(state="detached")
