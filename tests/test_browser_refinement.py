"""The step picker of notebook 04 in a browser: a person changes the seed, and hides an image."""

import io

from browser import jupyter_lab, open_notebook, write_notebook
from PIL import Image, ImageStat


def test_step_picker(chromium, tmp_path):
    write_notebook(
        tmp_path / "picker.ipynb",
        "from nitro_lab import load_pipeline\nfrom workbook.widgets.step_picker import step_picker",
        'step_picker(load_pipeline("mini"), "a large striped red star at the top on a sunset background")',
    )
    with jupyter_lab(tmp_path) as lab, open_notebook(chromium, lab, "picker.ipynb") as notebook:
        notebook.run_all_cells()
        images = [Image.open(io.BytesIO(notebook.picture_bytes(index))).convert("RGB") for index in range(4)]
        assert all(max(ImageStat.Stat(image).stddev) > 5 for image in images)
        assert len({image.tobytes() for image in images}) == 4
        notebook.keep_screenshot("step_picker")
        before = [notebook.picture(index) for index in range(4)]
        notebook.set_slider("seed", 7)
        for index, picture in enumerate(before):
            notebook.wait_for_new_picture(picture, index)
        switch, third = notebook.button("3 steps"), notebook.page.locator("img.widget-image").nth(2)
        switch.click()
        third.wait_for(state="hidden")
        switch.click()
        third.wait_for(state="visible")
        assert notebook.errors == []
