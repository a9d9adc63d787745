"""One prompt and one seed, sampled with several numbers of steps side by side, with the time of each."""

import time

import ipywidgets as widgets
from diffusers import StableDiffusionXLPipeline as Pipeline

from nitro_lab.sampling import format_steps, sample_image
from workbook.widgets.common import WIDE, image_box, paragraphs, prompt_field, put

__all__ = ["step_picker"]


def step_picker(pipe: Pipeline, prompt: str, seed: int = 0, steps: tuple[int, ...] = (1, 2, 3, 4)) -> widgets.VBox:
    """Show a field for the prompt, a slider for the seed, a switch for each number of `steps`, and the images."""
    text = prompt_field(prompt)
    seeds = widgets.IntSlider(seed, 0, 99, description="seed", continuous_update=False)
    switches = {n: widgets.ToggleButton(True, description=format_steps(n)) for n in steps}
    images = {n: image_box(224) for n in steps}
    notes = {n: widgets.HTML() for n in steps}
    columns = {n: widgets.VBox([images[n], notes[n]]) for n in steps}
    remarks = widgets.HTML(layout=WIDE)

    def draw(n: int) -> list[str]:
        columns[n].layout.display = "" if switches[n].value else "none"
        if not switches[n].value:
            return []
        start = time.perf_counter()
        image, found = sample_image(pipe, text.value, seeds.value, n)
        notes[n].value = f"{format_steps(n)}, {1e3 * (time.perf_counter() - start):.0f} ms"
        put(images[n], image)
        return found

    def draw_all(_: object = None) -> None:
        remarks.value = paragraphs(dict.fromkeys(remark for n in steps for remark in draw(n)))

    for control in (text, seeds):
        control.observe(draw_all, "value")
    for n, switch in switches.items():
        switch.observe(lambda _, n=n: draw(n), "value")
    draw_all()
    return widgets.VBox([text, seeds, widgets.HBox([*switches.values()]), widgets.HBox([*columns.values()]), remarks])
