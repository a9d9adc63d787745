"""Pictures by what `nitro-lab train` wrote, or by any other model, as a grid."""

from collections.abc import Sequence
from pathlib import Path

from diffusers import StableDiffusionXLPipeline
from matplotlib.figure import Figure

from nitro_lab.canvas import picture_grid
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.run_folder import read_config
from nitro_lab.sampling import imagine

INCHES = 1.75  # a side of one picture


def load_run(model: str) -> StableDiffusionXLPipeline:
    """A run folder's averaged student in the pipeline that it started from; anything else as `load_pipeline` has it.

    Raises:
        ValueError: if the run has no student yet, or there is neither such a run nor such a model.
        CheckpointError: if a file is damaged or does not fit.
    """
    folder = Path(model)
    if not (folder / "config.json").is_file() or (folder / "model_index.json").exists():
        return load_pipeline(model)
    student = folder / "student.safetensors"
    if not student.exists():
        raise ValueError(f"{folder} has no student.safetensors yet: it comes with the run's first checkpoint.")
    return load_pipeline(read_config(folder)["student"], unet=student)


def sample_grid(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], steps: Sequence[int], seed: int, guidance: float = 0.0
) -> tuple[Figure, list[str]]:
    """Pictures in their own resolution, a row for each number of steps; and what there is to say about the prompts."""
    rows, remarks = {}, []
    for count in steps:
        shots = [imagine(pipe, prompt, seed, count, guidance) for prompt in prompts]
        rows[f"{count} step{'s' if count > 1 else ''}"] = [picture for picture, _ in shots]
        remarks += [remark for _, words in shots for remark in words]
    figure = picture_grid(rows, prompts, INCHES)
    widest = max(picture.width for pictures in rows.values() for picture in pictures)
    figure.set_dpi(max(150, round(widest / INCHES)))
    return figure, list(dict.fromkeys(remarks))
