"""The prompt box in a browser: a person types, moves the sliders, and sees other pictures."""

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
        "from nitro_lab import load_pipeline\nfrom nitro_lab.widgets.prompt_box import prompt_box",
        'prompt_box(load_pipeline("mini"), prompt="a large striped red star at the top on a sunset background")',
    )
    with jupyter_lab(folder) as lab, open_notebook(chromium, lab, "box.ipynb") as page:
        page.run_all_cells()
        yield page
        assert page.errors == []


def shown(notebook) -> Image.Image:
    """The picture that the browser holds."""
    return Image.open(io.BytesIO(notebook.picture_bytes())).convert("RGB")


def prompt_field(notebook):
    return notebook.field("prompt").locator("input")


def type_prompt(notebook, words: str) -> None:
    before = notebook.picture()
    prompt_field(notebook).fill(words)
    prompt_field(notebook).press("Enter")
    notebook.wait_for_new_picture(before)


def test_there_is_a_picture_from_the_start(notebook):
    picture = shown(notebook)
    assert picture.size == (384, 384)
    assert max(ImageStat.Stat(picture).stddev) > 5  # not a blank
    notebook.keep_screenshot("prompt_box")


@pytest.mark.parametrize(("slider", "value"), [("seed", 7), ("steps", 3)])
def test_slider_gives_another_picture_and_the_old_one_back(notebook, slider, value):
    readout = notebook.field(slider).locator(".widget-readout")
    old, before, picture = readout.inner_text(), notebook.picture(), shown(notebook)
    notebook.set_slider(slider, value)
    notebook.wait_for_new_picture(before)
    assert shown(notebook) != picture
    before = notebook.picture()
    notebook.set_slider(slider, float(old))
    notebook.wait_for_new_picture(before)
    assert shown(notebook) == picture


@pytest.mark.parametrize("slider", ["seed", "steps"])
def test_handle_moves_with_the_keys(notebook, slider):
    before = notebook.picture()
    notebook.press_slider(slider, "ArrowRight")
    notebook.wait_for_new_picture(before)


def test_other_words_give_another_picture_once_enter_is_pressed(notebook):
    picture, address = shown(notebook), notebook.picture()
    prompt_field(notebook).fill("a small solid blue ring")
    notebook.page.wait_for_timeout(500)
    assert notebook.picture() == address
    prompt_field(notebook).press("Enter")
    notebook.wait_for_new_picture(address)
    assert shown(notebook) != picture


def test_unknown_word_is_named_under_the_picture(notebook):
    type_prompt(notebook, "a large purple dragon on a night background")
    note = notebook.page.get_by_text("does not know the word dragon")
    note.wait_for()
    assert note.bounding_box()["y"] > notebook.page.locator("img.widget-image").bounding_box()["y"]
    assert "triangle" in note.inner_text()
    notebook.keep_screenshot("prompt_box_unknown_word")
    type_prompt(notebook, "a large purple heart on a night background")
    note.wait_for(state="detached")


def test_empty_prompt_gives_a_picture(notebook):
    picture = shown(notebook)
    type_prompt(notebook, "")
    assert shown(notebook) != picture
    assert notebook.page.locator(".jp-OutputArea-output[data-mime-type*=stderr]").count() == 0
