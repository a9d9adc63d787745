"""Pictures by any model, as a grid."""

from collections.abc import Sequence

from diffusers import StableDiffusionXLPipeline
from matplotlib.figure import Figure

from nitro_lab.plots.canvas import picture_grid
from nitro_lab.sampling import imagine
from nitro_lab.stages import steps_in_words

INCHES = 1.75  # a side of one picture


def sample_grid(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], steps: Sequence[int], seed: int, guidance: float = 0.0
) -> tuple[Figure, list[str]]:
    """Pictures in their own resolution, a row for each number of steps; and what there is to say about the prompts."""
    rows, remarks = {}, []
    for count in steps:
        shots = [imagine(pipe, prompt, seed, count, guidance) for prompt in prompts]
        rows[steps_in_words(count)] = [picture for picture, _ in shots]
        remarks += [remark for _, words in shots for remark in words]
    figure = picture_grid(rows, prompts, INCHES)
    widest = max(picture.width for pictures in rows.values() for picture in pictures)
    figure.set_dpi(max(150, round(widest / INCHES)))
    return figure, list(dict.fromkeys(remarks))
