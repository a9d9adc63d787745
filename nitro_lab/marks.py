"""The table of an exam: renders, the teacher and any students, side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

from nitro_lab.checkpoints import load_pipeline
from nitro_lab.evaluate import interval
from nitro_lab.exam import fresh_renders, mark, set_exam, sit, sit_once
from nitro_lab.mini.judge import load_judge
from nitro_lab.mini.world import FACTORS
from nitro_lab.stages import steps_in_words

TEACHER = "mini-teacher"
TEACHER_STEPS = 25
TEACHER_GUIDANCE = 3.0
COUNTED = (*FACTORS, "all", "repetition")  # shares of independent images, so with an interval
SHARES = ("precision", "recall", "coverage")  # each image's verdict hangs on all the others

Columns = dict[str, dict[str, float]]


def compare_models(
    models: Sequence[str],
    steps: Sequence[int] = (1,),
    unet: str | None = None,
    shifted_timestep: int | None = None,
    captions: str = "held-out",
    images: int = 1000,
    seed: int = 0,
) -> Columns:
    """Let fresh renders, the teacher and each model at each number of steps sit the same exam.

    Args:
        models: of the miniature's world, names or folders; see `load_pipeline`, also for `unet`, `shifted_timestep`.

    Returns:
        The marks of `nitro_lab.exam.mark` for each column.
    """
    if images < 10:
        raise ValueError(f"images is {images}; the distances need at least 10, and mean little below 1000.")
    teacher = load_pipeline(TEACHER)
    students = {name: load_pipeline(name, unet=unet, shifted_timestep=shifted_timestep) for name in models}
    for pipe in students.values():
        for count in steps:  # a schedule that cannot be is refused before the teacher's minutes of work
            pipe.scheduler.set_timesteps(count)
    exam = set_exam(teacher, load_judge(teacher.device), captions, images, seed)
    columns = {"renders": mark(exam, fresh_renders(exam, teacher, seed))}
    title = f"teacher, {TEACHER_STEPS} steps"
    columns[title] = mark(exam, sit_once(exam, teacher, TEACHER_STEPS, TEACHER_GUIDANCE, title))
    for name, pipe in students.items():
        for count in steps:
            title = f"{name}, {steps_in_words(count)}"
            columns[title] = mark(exam, sit(exam, pipe, count, seed=seed, title=title))
    return columns


def print_table(columns: Columns, images: int) -> None:
    """One row a mark; shares in per cent, those that are counted image by image with their 95 % interval."""
    names = next(iter(columns.values()))
    rows = {name: [words(name, marks[name], images) for marks in columns.values()] for name in names}
    width = max(len(cell) for row in (columns, *rows.values()) for cell in row) + 2
    for name, row in ({"": list(columns)} | rows).items():
        print(name.ljust(12) + "".join(cell.rjust(width) for cell in row))


def words(name: str, value: float, images: int) -> str:
    """A mark as people read it."""
    if name in COUNTED:
        low, high = interval(value, images)
        return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    if name in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.4f}" if name == "KID" else f"{value:.2f}"


def write_table(columns: Columns, path: Path) -> None:
    """The same as JSON: {column: {mark: value}}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(columns, indent=2) + "\n")
