"""The table of an evaluation: renders, the teacher and any students, side by side."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation.metrics import wilson_interval
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.mini.world import FACTORS
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import format_steps

__all__ = ["TEACHER", "TEACHER_GUIDANCE", "TEACHER_STEPS", "Columns", "evaluate_models", "format_table", "write_table"]

TEACHER = "mini-teacher"
TEACHER_STEPS = 25
TEACHER_GUIDANCE = 3.0
Columns = dict[str, dict[str, float]]

_COUNTED = (*FACTORS, "all", "repetition")  # fractions of independent images, so with an interval
_FRACTIONS = ("precision", "recall", "coverage")  # each image's result depends on all the others


def evaluate_models(
    models: Sequence[str],
    num_inference_steps: Sequence[int] = (1,),
    unet: str | None = None,
    shifted_timestep: int | None = None,
    captions: str = "held-out",
    num_images: int = 1000,
    seed: int = 0,
) -> Columns:
    """Evaluate renders, the teacher, and each model at each number of steps, on the same evaluation set.

    `models` are names or folders of the miniature's world; see `load_pipeline`, also for `unet` and `shifted_timestep`.
    Returns the metrics of `compute_metrics` for each column. Raises a ValueError if an argument is out of range, before
    anything is sampled.
    """
    if num_images < 10:
        raise ValueError(f"num_images is {num_images}; the distances need at least 10, better 1000.")
    teacher = load_pipeline(TEACHER)
    students = {name: load_pipeline(name, unet=unet, shifted_timestep=shifted_timestep) for name in models}
    for pipe in students.values():
        for steps in num_inference_steps:  # refuse an impossible schedule before the teacher is sampled for minutes
            pipe.scheduler.set_timesteps(steps)
    eval_set = evaluation.make_eval_set(teacher, load_scene_classifier(teacher.device), captions, num_images, seed)
    title = f"teacher, {format_steps(TEACHER_STEPS)}"
    images = {
        "renders": evaluation.render_again(eval_set, teacher, seed),
        title: evaluation.sample_eval_set_cached(eval_set, teacher, TEACHER_STEPS, TEACHER_GUIDANCE, title),
    }
    for name, pipe in students.items():
        for steps in num_inference_steps:
            title = f"{name}, {format_steps(steps)}"
            images[title] = evaluation.sample_eval_set(eval_set, pipe, steps, seed=seed, progress=title)
    return {name: evaluation.compute_metrics(eval_set, sampled) for name, sampled in images.items()}


def format_table(columns: Columns, num_images: int) -> str:
    """Format one row for each metric; fractions in per cent, with 95 % intervals where images are independent."""
    cells = {title: {n: _format(n, x, num_images) for n, x in column.items()} for title, column in columns.items()}
    return pd.DataFrame(cells).to_string()


def _format(name: str, value: float, num_images: int) -> str:
    """One cell of the table."""
    if name in _COUNTED and not math.isnan(value):
        low, high = wilson_interval(value, num_images)
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    if name in (*_COUNTED, *_FRACTIONS):
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if name == "KID" else f"{value:.2f}"


def write_table(columns: Columns, path: Path) -> None:
    """Write the columns as JSON: {column: {metric: value}}; NaN becomes null."""
    table = {title: {n: None if math.isnan(x) else x for n, x in column.items()} for title, column in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=2) + "\n")
