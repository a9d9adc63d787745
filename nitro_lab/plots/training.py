"""Curves of an adversarial training."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nitro_lab.discriminators.losses import GAN_LOSSES
from nitro_lab.plots.canvas import PALETTE, escape, panels

__all__ = ["plot_logit_gaps", "plot_running_mean", "training_curves", "uninformed_label"]


def training_curves(
    reports: pd.DataFrame, gan_loss: str, uninformed_loss: float | None = None, window: int = 25
) -> Figure:
    """Plot both losses, the logit gap at each noise level, and the student's gradient norm.

    Args:
        reports: a run's reports.csv.
        gan_loss: name of the GAN loss.
        uninformed_loss: the discriminator's loss when all logits are 0; default: that of `GAN_LOSSES[gan_loss]`.
        window: steps of the running mean; dots are single steps.
    """
    if uninformed_loss is None:
        uninformed_loss = GAN_LOSSES[gan_loss].uninformed_loss
    line = {"color": "0.35", "linestyle": "--", "lw": 1}
    figure, (losses, gaps, norms) = panels(1, 3, (13.5, 4.3))
    plot_running_mean(losses, reports["step"], reports["disc_loss"], window, "discriminator", PALETTE[0])
    plot_running_mean(losses, reports["step"], reports["student_loss"], window, "student", PALETTE[1])
    losses.axhline(uninformed_loss, label=uninformed_label(uninformed_loss), **line)
    losses.set(title=f"Losses ({escape(gan_loss)}), mean over sampled heads", ylabel="loss")
    plot_logit_gaps(gaps, reports, window, PALETTE * 9)
    gaps.axhline(0, label="0: no difference between real and fake", **line)
    gaps.set(title="Logit gap by noise level", ylabel="mean logit of real − fake")
    updated = reports[reports["grad_norm"] > 0]  # it is 0 where only the heads were updated
    plot_running_mean(norms, updated["step"], updated["grad_norm"], window, "student", PALETTE[2])
    norms.set(title="Student's gradient norm before clipping", ylabel="L2 norm", yscale="log")
    for axis in (losses, gaps, norms):
        axis.set_xlabel("step")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize=8)
    return figure


def uninformed_label(loss: float) -> str:
    """Label for the line at the discriminator's loss when all logits are 0."""
    return f"{'2·ln 2 = ' if round(loss, 4) == 1.3863 else ''}{loss:.4g}: all logits 0"


def plot_logit_gaps(axis: Axes, reports: pd.DataFrame, window: int, colors: Sequence[str]) -> None:
    """Plot the logit gap of each noise level."""
    for color, (t_star, rows) in zip(colors, reports.groupby("t_star"), strict=False):
        plot_running_mean(axis, rows["step"], rows["logit_gap"], window, f"t* = {t_star}", color)


def plot_running_mean(axis: Axes, steps: pd.Series, values: pd.Series, window: int, label: str, color: str) -> None:
    """Plot finite values as dots, and the mean of the last `window` of them as a line."""
    values = values[values.abs() < float("inf")]  # not NaN either
    steps = steps[values.index]
    axis.plot(steps, values, ".", color=color, alpha=0.35, ms=5, mec="none")
    axis.plot(steps, values.rolling(window, min_periods=1).mean(), color=color, lw=1.8, label=label)
