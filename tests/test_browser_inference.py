"""The prompt box in a browser: typing and moving the sliders give other images."""

import io

import pytest
from browser import jupyter_lab, open_notebook, write_notebook
from PIL import Image, ImageStat


@pytest.fixture(scope="module")
def notebook(chromium, tmp_path_factory):
    """A page with the prompt box on it."""
    folder = tmp_path_factory.mktemp("prompt_box")
    write_notebook(
        folder / "box.ipynb",
        "from nitro_lab import load_pipeline\nfrom workbook.widgets.prompt_box import prompt_box",
        'prompt_box(load_pipeline("mini"), prompt="a large striped red star at the top on a sunset background")',
    )
    with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "box.ipynb") as page:
        page.run_all_cells()
        yield page
        assert page.errors == []


def shown(notebook) -> Image.Image:
    """The image that the browser holds."""
    return Image.open(io.BytesIO(notebook.picture_bytes())).convert("RGB")


def test_a_slider_gives_another_image_and_the_old_one_back(notebook):
    first = shown(notebook)
    assert first.size == (384, 384)
    assert max(ImageStat.Stat(first).stddev) > 5  # not blank
    notebook.keep_screenshot("prompt_box")
    for slider, old, value in [("seed", 0, 7), ("steps", 1, 3)]:
        for target in (value, old):
            before = notebook.picture()
            notebook.set_slider(slider, target)
            notebook.wait_for_new_picture(before)
            assert (shown(notebook) == first) == (target == old)


def test_unknown_word_is_named_below_the_image(notebook):
    before, field = notebook.picture(), notebook.field("prompt").locator("input")
    field.fill("a large purple dragon on a night background")
    notebook.page.wait_for_timeout(500)
    assert notebook.picture() == before  # until Enter is pressed
    field.press("Enter")
    notebook.wait_for_new_picture(before)
    note = notebook.page.locator(".widget-html-content", has_text="dragon")
    note.wait_for()
    assert note.bounding_box()["y"] > notebook.page.locator("img.widget-image").bounding_box()["y"]
    notebook.keep_screenshot("prompt_box_unknown_word")
    field.fill("")
    field.press("Enter")
    note.wait_for(state="detached")
    assert notebook.page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
