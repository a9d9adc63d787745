"""One prompt and one seed, all numbers of steps side by side, the time of each below it."""

import time

import ipywidgets as widgets
from diffusers import StableDiffusionXLPipeline

from nitro_lab.sampling import imagine
from nitro_lab.stages import steps_in_words
from nitro_lab.widgets.parts import WIDE, image_box, paragraphs, prompt_field, put

SIDE = 224  # pixels on the screen


def step_picker(
    pipe: StableDiffusionXLPipeline, prompt: str, seed: int = 0, steps: tuple[int, ...] = (1, 2, 3, 4)
) -> widgets.VBox:
    """A text field, a slider of seeds, a switch of each number of steps, and their pictures with milliseconds.

    Args:
        prompt: what stands in the field at first. A new one counts when Enter is pressed or the field is left.
        steps: numbers of steps to choose from; all are shown at first.
    """
    text = prompt_field(prompt)
    seeds = widgets.IntSlider(seed, 0, 99, description="seed", continuous_update=False)
    chosen = {count: widgets.ToggleButton(True, description=steps_in_words(count)) for count in steps}
    pictures = {count: image_box(SIDE) for count in steps}
    notes = {count: widgets.HTML() for count in steps}
    remark = widgets.HTML(layout=WIDE)
    columns = {count: widgets.VBox([pictures[count], notes[count]]) for count in steps}

    def draw(count: int) -> list[str]:
        columns[count].layout.display = "" if chosen[count].value else "none"
        if not chosen[count].value:
            return []
        start = time.perf_counter()
        image, remarks = imagine(pipe, text.value, seeds.value, count)
        notes[count].value = f"{steps_in_words(count)}, {1e3 * (time.perf_counter() - start):.0f} ms"
        put(pictures[count], image)
        return remarks

    def draw_all(_: object = None) -> None:
        said = {words: None for count in steps for words in draw(count)}
        remark.value = paragraphs(said)

    for control in (text, seeds):
        control.observe(draw_all, "value")
    for count, switch in chosen.items():
        switch.observe(lambda _, count=count: draw(count), "value")
    draw_all()
    return widgets.VBox(
        [text, seeds, widgets.HBox(list(chosen.values())), widgets.HBox(list(columns.values())), remark]
    )
