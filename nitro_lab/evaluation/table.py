"""The table of an evaluation: renders, the teacher and any students, side by side."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nitro_lab.checkpoint import atomic_write
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation.eval_set import FEW_TEACHER_STEPS, TEACHER_GUIDANCE, TEACHER_STEPS
from nitro_lab.evaluation.metrics import wilson_interval
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.mini.world import FACTORS
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import format_steps

__all__ = ["TEACHER", "Columns", "evaluate_models", "format_table", "write_table"]

TEACHER = "mini-teacher"
Columns = dict[str, dict[str, float]]

_COUNTED = (*FACTORS, "all", "repetition")  # fractions of independent images, so with an interval
_HIDDEN = ("told_apart_half", "repetition")  # the first is a part of another cell, the second zero for all at 64×64


def evaluate_models(
    models: Sequence[str],
    num_inference_steps: Sequence[int] = (1,),
    unet: str | None = None,
    shifted_timestep: int | None = None,
    captions: str = "held-out",
    num_images: int = evaluation.NUM_IMAGES,
    seed: int = 0,
) -> Columns:
    """Evaluate renders, the teacher at 4 to 25 steps, and each model at each number of steps, on one evaluation set.

    `models` are names or folders of the miniature's world; see `load_pipeline`, also for `unet` and `shifted_timestep`.
    Returns the metrics of `compute_metrics` for each column. Raises a ValueError first if an argument is out of range.
    """
    if num_images < 10:
        raise ValueError(f"num_images is {num_images}; the distances need at least 10, better {evaluation.NUM_IMAGES}.")
    students = {name: load_pipeline(name, unet=unet, shifted_timestep=shifted_timestep) for name in models}
    teacher = load_pipeline(TEACHER)
    for pipe in students.values():
        for steps in num_inference_steps:  # refuse an impossible schedule before the teacher is sampled for minutes
            pipe.scheduler.set_timesteps(steps)
    eval_set = evaluation.make_eval_set(teacher, load_scene_classifier(teacher.device), captions, num_images, seed)
    images = {"renders": evaluation.render_again(eval_set, teacher, seed)}
    for steps in (*FEW_TEACHER_STEPS, TEACHER_STEPS):
        title = _teacher_title(steps)
        images[title] = evaluation.sample_eval_set_cached(eval_set, teacher, steps, TEACHER_GUIDANCE, title)
    for name, pipe in students.items():
        for steps in num_inference_steps:
            title = f"{name}, {format_steps(steps)}"
            images[title] = evaluation.sample_eval_set(eval_set, pipe, steps, seed=seed, progress=title)
    eval_set = replace(eval_set, teacher_images=images[_teacher_title(TEACHER_STEPS)])
    return {name: evaluation.compute_metrics(eval_set, sampled) for name, sampled in images.items()}


def _teacher_title(steps: int) -> str:
    return f"teacher, {format_steps(steps)}"


def format_table(columns: Columns, num_images: int) -> str:
    """Format one row for each metric; fractions in per cent, with 95 % intervals: of `num_images`, or of networks."""
    rows = {n: None for column in columns.values() for n in column if n not in _HIDDEN}
    cells = {title: {n: _format(n, column, num_images) for n in rows} for title, column in columns.items()}
    return pd.DataFrame(cells).to_string()


def _format(name: str, column: dict[str, float], num_images: int) -> str:
    value = column.get(name, math.nan)
    if math.isnan(value):
        return "–"
    if name in _COUNTED:
        low, high = wilson_interval(value, num_images)
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    if name == "told_apart":
        return f"{100 * value:.1f} % ± {100 * column['told_apart_half']:.1f}"
    return f"{value:.2f}"


def write_table(columns: Columns, path: Path) -> None:
    """Write the columns as JSON: {column: {metric: value}}; NaN becomes null."""
    table = {title: {n: None if math.isnan(x) else x for n, x in column.items()} for title, column in columns.items()}
    atomic_write(path, lambda file: file.write_text(json.dumps(table, indent=2) + "\n"))
