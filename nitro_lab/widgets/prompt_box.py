"""A box to type prompts into: words, a seed and a number of steps go in, a picture comes out."""

import ipywidgets as widgets
from diffusers import StableDiffusionXLPipeline

from nitro_lab.sampling import imagine
from nitro_lab.widgets.parts import WIDE, image_box, paragraphs, prompt_field, put

SIDE = 384  # pixels on the screen


def prompt_box(
    pipe: StableDiffusionXLPipeline, prompt: str, seed: int = 0, most_steps: int = 4, guidance: float = 0.0
) -> widgets.VBox:
    """A text field, two sliders and the picture that they ask for.

    Args:
        prompt: what stands in the field at first. A new one counts when Enter is pressed or the field is left.
        most_steps: end of the slider; a distilled student cannot take more than its scheduler's
            `original_inference_steps`.
        guidance: the pipeline's `guidance_scale`; 1 or less is none.
    """
    text = prompt_field(prompt)
    seed_slider = widgets.IntSlider(seed, 0, 99, description="seed")
    steps_slider = widgets.IntSlider(1, 1, most_steps, description="steps")
    picture, note = image_box(SIDE), widgets.HTML(layout=WIDE)

    def draw(_: object = None) -> None:
        image, remarks = imagine(pipe, text.value, seed_slider.value, steps_slider.value, guidance)
        put(picture, image)
        note.value = paragraphs(remarks)

    for control in (text, seed_slider, steps_slider):
        control.observe(draw, "value")
    draw()
    return widgets.VBox([text, seed_slider, steps_slider, picture, note])
