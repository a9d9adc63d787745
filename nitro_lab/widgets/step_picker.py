"""One prompt and one seed, all numbers of steps side by side, the time of each below it."""

import html
import io
import time

import ipywidgets as widgets
from diffusers import StableDiffusionXLPipeline

from nitro_lab.plots.canvas import enlarge
from nitro_lab.sampling import imagine

SIDE = 224  # pixels on the screen


def step_picker(
    pipe: StableDiffusionXLPipeline, prompt: str, seed: int = 0, steps: tuple[int, ...] = (1, 2, 3, 4)
) -> widgets.VBox:
    """A text field, a slider of seeds, a switch of each number of steps, and their pictures with milliseconds.

    Args:
        prompt: what stands in the field at first. A new one counts when Enter is pressed or the field is left.
        steps: numbers of steps to choose from; all are shown at first.
    """
    wide = widgets.Layout(width="620px")
    text = widgets.Text(prompt, description="prompt", continuous_update=False, layout=wide)
    seeds = widgets.IntSlider(seed, 0, 99, description="seed", continuous_update=False)
    chosen = {count: widgets.ToggleButton(True, description=name_of(count)) for count in steps}
    pictures = {count: widgets.Image(format="png", width=SIDE, height=SIDE) for count in steps}
    notes = {count: widgets.HTML() for count in steps}
    remark = widgets.HTML(layout=wide)
    columns = {count: widgets.VBox([pictures[count], notes[count]]) for count in steps}

    def draw(count: int) -> list[str]:
        columns[count].layout.display = "" if chosen[count].value else "none"
        if not chosen[count].value:
            return []
        start = time.perf_counter()
        image, remarks = imagine(pipe, text.value, seeds.value, count)
        notes[count].value = f"{name_of(count)}, {1e3 * (time.perf_counter() - start):.0f} ms"
        file = io.BytesIO()
        enlarge(image, SIDE).save(file, "png")
        pictures[count].value = file.getvalue()
        return remarks

    def draw_all(_: object = None) -> None:
        said = {words: None for count in steps for words in draw(count)}
        remark.value = "".join(f'<p style="line-height: 1.4">{html.escape(words)}</p>' for words in said)

    for control in (text, seeds):
        control.observe(draw_all, "value")
    for count, switch in chosen.items():
        switch.observe(lambda _, count=count: draw(count), "value")
    draw_all()
    return widgets.VBox(
        [text, seeds, widgets.HBox(list(chosen.values())), widgets.HBox(list(columns.values())), remark]
    )


def name_of(count: int) -> str:
    """1 step, 2 steps."""
    return f"{count} step{'s' if count > 1 else ''}"
