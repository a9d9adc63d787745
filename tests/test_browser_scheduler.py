"""The scheduler's explorer in a real browser: every control is moved, and the picture must follow."""

from collections.abc import Iterator

import pytest

pytest.importorskip("playwright")

from browser import NotebookPage, jupyter_lab, open_notebook, write_notebook

MOVES = [("shift", 500), ("steps", 3), ("schedule length", 8)]


@pytest.fixture(scope="module")
def explorer(chromium, tmp_path_factory) -> Iterator[NotebookPage]:
    """A page of JupyterLab that shows the explorer, at shift 250, two steps of four."""
    folder = tmp_path_factory.mktemp("lab")
    cells = (
        "from nitro_lab.widgets.shift_explorer import scheduler_explorer",
        "scheduler_explorer(shift=250, steps=2, length=4)",
    )
    write_notebook(folder / "explorer.ipynb", *cells)
    with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "explorer.ipynb") as notebook:
        notebook.run_all_cells()
        yield notebook


@pytest.mark.parametrize(("name", "value"), MOVES)
def test_the_picture_follows_a_typed_number(explorer, name, value):
    before, pixels = explorer.picture(), explorer.picture_bytes()
    explorer.set_slider(name, value)
    explorer.wait_for_new_picture(before)
    assert explorer.picture_bytes() != pixels
    explorer.keep_screenshot(f"scheduler_{name.replace(' ', '_')}")
    assert explorer.errors == []


@pytest.mark.parametrize("name", [name for name, _ in MOVES])
def test_the_picture_follows_a_dragged_handle(explorer, name):
    before, pixels = explorer.picture(), explorer.picture_bytes()
    explorer.press_slider(name, "ArrowRight")
    explorer.wait_for_new_picture(before)
    assert explorer.picture_bytes() != pixels
    assert explorer.errors == []


def test_an_impossible_schedule_is_explained_in_place_of_the_picture(explorer):
    explorer.set_slider("shift", 1)
    words = explorer.page.get_by_text("two steps become the same")
    words.wait_for()
    explorer.page.locator("img.widget-image").wait_for(state="hidden")
    explorer.keep_screenshot("scheduler_message")
    explorer.set_slider("shift", 250)
    explorer.page.locator("img.widget-image").wait_for(state="visible")
    words.wait_for(state="detached")
    assert explorer.errors == []
