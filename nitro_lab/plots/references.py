"""Recorded runs below each other, so that one's own curves can be held beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nitro_lab.objectives import OBJECTIVES
from nitro_lab.plots.canvas import PALETTE
from nitro_lab.plots.training import blind, draw_curve
from nitro_lab.studies.reference_runs import Run, last_quarter, reading

COLUMNS = {
    "critic_loss": "critics' loss",
    "student_loss": "student's loss",
    "margin": "margin by noise level",
    "gradient_norm": "student's gradient norm",
}
LARGE = 5  # a column that reaches further is squeezed beyond ±1, or the small ones would be flat


def reference_curves(runs: Mapping[str, Run], memory: int = 25) -> Figure:
    """Losses, margins by noise level, and the student's gradient norm of some runs, on the same scales.

    The grey part is the last quarter; its mean is written at its end, and its reading in numbers above the row.

    Args:
        runs: by name; see `nitro_lab.studies.reference_runs.read_runs`.
        memory: points that a line is the running mean of.

    Raises:
        ValueError: if there is no run.
    """
    if not runs:
        raise ValueError(
            "runs is empty; give at least one, from read_runs or as Run(recording.table(), config.objective)."
        )
    figure = plt.figure(figsize=(13, 2.6 * len(runs) + 0.4), layout="constrained")
    plt.close(figure)
    parts = np.atleast_1d(figure.subfigures(len(runs), 1))  # type: ignore[arg-type]  # one, or an array
    grid = [part.subplots(1, len(COLUMNS)) for part in parts]
    for (name, run), part, axes in zip(runs.items(), parts, grid, strict=True):
        title = f"{name}: {run.words}" if run.words else name
        part.suptitle(f"{title}\n{reading(run)}", x=0.01, ha="left", fontsize=10)
        draw_run(axes, run, memory)
    for column in zip(*grid, strict=True):
        share_scale(column)
    for axis in grid[-1]:
        axis.set_xlabel("step")
    lines = [line for axes in grid for axis in axes for line in axis.lines if line.get_label()[0] != "_"]
    legend = {line.get_label(): line for line in lines}
    figure.legend(legend.values(), legend.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def draw_run(axes: Sequence[Axes], run: Run, memory: int) -> None:
    """One row: four axes with the columns' curves and notes."""
    columns = run.columns
    step = columns["step"]
    for axis, (column, title) in zip(axes, COLUMNS.items(), strict=True):
        values = columns[column]
        if column == "gradient_norm":  # 0 where only the critics learned: no place on a logarithm
            values = np.where(values > 0, values, np.nan)
            axis.set_yscale("log")
        if column == "margin":
            for t_star, color in zip(np.unique(columns["t_star"]), PALETTE[2:], strict=False):
                here = columns["t_star"] == t_star
                draw_curve(axis, step[here], values[here], memory, f"t* = {t_star:.0f}", color)
        else:
            draw_curve(axis, step, values, memory, "all noise levels", PALETTE[0])
        axis.axvspan(step[-1] - (step[-1] - step[0]) / 4, step[-1], color="0.93", zorder=0)
        note: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "ha": "right",
            "va": "top",
            "fontsize": 9,
        }
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
        axis.annotate(f"{last_quarter(values):.3g}", (1, 1), (-5, -5), bbox=box, **note)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    height = OBJECTIVES[run.objective].blind_loss
    style = "--" if run.objective == "hinge" else ":"
    axes[0].axhline(height, color=PALETTE[1], linestyle=style, lw=1.6, label=blind(run.objective, height))
    axes[2].axhline(0, color="0.35", linestyle="--", lw=1.2, label="0: real and fake look alike")


def share_scale(axes: Sequence[Axes]) -> None:
    """Give axes of different rows the same range, from the lowest end to the highest, and the same scale."""
    low = min(axis.get_ylim()[0] for axis in axes)
    high = max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        if axis.get_yscale() == "linear" and max(-low, high) > LARGE:
            axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(low, high)
