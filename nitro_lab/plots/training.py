"""Curves of adversarial training. Data in, Figure out; nothing trains here."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from nitro_lab.objectives import OBJECTIVES
from nitro_lab.plots.canvas import PALETTE, panels

SOURCES = {"non-saturating": "2·ln 2 = "}  # where the number comes from, if it does not show


def training_curves(
    reports: Mapping[str, ArrayLike], objective: str, blind_loss: float | None = None, memory: int = 25
) -> Figure:
    """Losses of both sides, margins by noise level, and the student's gradient norm, over the steps.

    Args:
        reports: columns of a run's reports.csv: step, t_star, critic_loss, student_loss, margin, gradient_norm.
        objective: its name.
        blind_loss: the critics' loss when they know nothing; by default that of the objective of this name.
        memory: points that a line is the running mean of; the points themselves are dots.
    """
    columns = {name: np.asarray(values, dtype=float) for name, values in reports.items()}
    step = columns["step"]
    figure, (losses, margins, norms) = panels(1, 3, (13.5, 4.3))
    for name, color in (("critic", PALETTE[0]), ("student", PALETTE[1])):
        draw_curve(losses, step, columns[f"{name}_loss"], memory, name, color)
    height = OBJECTIVES[objective].blind_loss if blind_loss is None else blind_loss
    losses.axhline(height, color="0.35", linestyle="--", lw=1, label=blind(objective, height))
    losses.set(title=f"Losses ({objective}), mean over the panel", ylabel="loss")
    for t_star, color in zip(np.unique(columns["t_star"]), PALETTE * 9, strict=False):
        here = columns["t_star"] == t_star
        draw_curve(margins, step[here], columns["margin"][here], memory, f"t* = {t_star:.0f}", color)
    margins.axhline(0, color="0.35", linestyle="--", lw=1, label="0: real and fake look alike")
    margins.set(title="Margins by noise level", ylabel="mean logit of reals − of fakes")
    learned = columns["gradient_norm"] > 0  # 0 where only the critics learned: no place on a logarithm
    draw_curve(norms, step[learned], columns["gradient_norm"][learned], memory, "student", PALETTE[2])
    norms.set(title="Student's gradient norm, before clipping", ylabel="L2 norm", yscale="log")
    for axis in (losses, margins, norms):
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize=8)
    return figure


def blind(objective: str, height: float) -> str:
    """Words for the line at which the critics know nothing."""
    return f"{SOURCES.get(objective, '')}{height:.4g}: critics know nothing"


def draw_curve(axis: Axes, steps: np.ndarray, values: np.ndarray, memory: int, name: str, color: str) -> None:
    """Every finite point as a faint dot, and the running mean of the last ones as a line."""
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    axis.plot(steps, values, ".", color=color, alpha=0.35, ms=5, mec="none")
    axis.plot(steps, running_mean(values, memory), color=color, lw=1.8, label=name)


def running_mean(values: np.ndarray, memory: int) -> np.ndarray:
    """Mean of each value and those before it, at most `memory` of them."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - memory, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
