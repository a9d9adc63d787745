"""A prompt, a seed and a number of steps in; an image out."""

import ipywidgets as widgets
from diffusers import StableDiffusionXLPipeline as Pipeline

from nitro_lab.sampling import sample_image
from workbook.widgets.common import WIDE, image_box, paragraphs, prompt_field, put

__all__ = ["prompt_box"]


def prompt_box(
    pipe: Pipeline, prompt: str, seed: int = 0, max_steps: int = 4, guidance_scale: float = 0.0
) -> widgets.VBox:
    """Make a prompt field, sliders for seed and steps, and the image that they give.

    A distilled student allows at most its scheduler's `original_inference_steps` as `max_steps`.
    """
    controls = [
        prompt_field(prompt),
        widgets.IntSlider(seed, 0, 99, description="seed"),
        widgets.IntSlider(1, 1, max_steps, description="steps"),
    ]
    box, note = image_box(384), widgets.HTML(layout=WIDE)

    def show(_: object = None) -> None:
        text, chosen_seed, steps = (control.value for control in controls)
        image, remarks = sample_image(pipe, text, chosen_seed, steps, guidance_scale)
        put(box, image)
        note.value = paragraphs(remarks)

    for control in controls:
        control.observe(show, "value")
    show()
    return widgets.VBox([*controls, box, note])
