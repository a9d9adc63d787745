"""The picker of notebook 04 in a browser: a person changes the seed, and hides a picture."""

import io

import pytest
from browser import jupyter_lab, open_notebook, write_notebook
from PIL import Image, ImageStat


@pytest.fixture(scope="module")
def notebook(chromium, tmp_path_factory):
    """A page with the picker on it."""
    folder = tmp_path_factory.mktemp("step_picker")
    write_notebook(
        folder / "picker.ipynb",
        "from nitro_lab import load_pipeline\nfrom nitro_lab.widgets.step_picker import step_picker",
        'step_picker(load_pipeline("mini"), "a large striped red star at the top on a sunset background")',
    )
    with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "picker.ipynb") as page:
        page.run_all_cells()
        yield page
        assert page.errors == []


def shown(notebook, index: int) -> Image.Image:
    return Image.open(io.BytesIO(notebook.picture_bytes(index))).convert("RGB")


def test_four_pictures_with_their_times(notebook):
    pictures = [shown(notebook, index) for index in range(4)]
    assert all(max(ImageStat.Stat(picture).stddev) > 5 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == 4
    notes = notebook.page.get_by_text(" ms").all_inner_texts()
    assert [note.split(",")[0] for note in notes] == ["1 step", "2 steps", "3 steps", "4 steps"]
    notebook.keep_screenshot("step_picker")


def test_another_seed_gives_four_other_pictures(notebook):
    old = [shown(notebook, index) for index in range(4)]
    before = notebook.picture(3)
    notebook.set_slider("seed", 7)
    notebook.wait_for_new_picture(before, 3)
    assert all(shown(notebook, index) != picture for index, picture in enumerate(old))


def test_a_switch_hides_a_picture_and_brings_it_back(notebook):
    switch = notebook.page.get_by_role("button", name="3 steps")
    third = notebook.page.locator("img.widget-image").nth(2)
    switch.click()
    third.wait_for(state="hidden")
    switch.click()
    third.wait_for(state="visible")
