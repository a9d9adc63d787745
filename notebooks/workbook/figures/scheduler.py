"""Figures of notebook 01, on the timestep shift."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from nitro_lab.plots.canvas import PALETTE, panels
from workbook.shift import ScheduleStep, SweepPoint, sigmas, target_std

__all__ = ["amplification", "measured_errors", "schedule", "sweep", "timelines"]

LATENT, SHIFTED, NOISE = PALETTE[:3]  # one color each in all figures
MARKERS = {LATENT: "o", SHIFTED: "s"}


def schedule(steps: Sequence[ScheduleStep], alphas_cumprod: torch.Tensor | None = None, last: int = 999) -> Figure:
    """Plot a schedule as a path: from t to the shifted t', to x0, and up to the next t.

    If `alphas_cumprod` is given, a second panel shows σ, the error in x0 for an error of 1 in ε.
    """
    widths = (3,) if alphas_cumprod is None else (3, 1)
    figure, axes = panels(1, len(widths), (10.5, 4.8), width_ratios=widths, sharey=True, squeeze=False)
    _draw_schedule(axes[0][0], steps, last)
    if alphas_cumprod is not None:
        axis, cost = axes[0][1], sigmas(alphas_cumprod.double())
        axis.plot(cost, torch.arange(len(cost)), color="0.5")
        for timesteps, color in (([step.t for step in steps], LATENT), ([step.shifted for step in steps], SHIFTED)):
            axis.plot(cost[timesteps], timesteps, MARKERS[color], color=color, ms=8)
        axis.set(xscale="log", xlabel="σ(t): error in x0 for 1 in ε", xlim=(0.02, 30))
        axis.grid(alpha=0.3)
    labels = {LATENT: "① latent: t", SHIFTED: "② UNet and x0: shifted t'", NOISE: "③ re-noising: next t"}
    _legend(figure, labels, Line2D([], [], color="black", ls="", marker="D", label="x0"))
    return figure


def _draw_schedule(axis: Axes, steps: Sequence[ScheduleStep], last: int) -> None:
    """The path of `schedule`: timesteps upwards, one column for each step."""
    fontsize = 10 if len(steps) <= 6 else 7
    for column, step in enumerate(steps, 1):
        latent, unet, x0 = (column, step.t), (column + 0.3, step.shifted), (column + 0.6, 0)
        _arrow(axis, latent, unet, LATENT)
        _arrow(axis, unet, x0, SHIFTED)
        if step.next_t is not None:
            _arrow(axis, x0, (column + 1, step.next_t), NOISE, linestyle="--")
        axis.plot(*x0, "D", color="black", ms=8, clip_on=False)
        for point, color, offset in ((latent, LATENT, (-8, 9)), (unet, SHIFTED, (9, 2))):
            axis.plot(*point, MARKERS[color], color=color, ms=9)
            axis.annotate(str(point[1]), point, offset, textcoords="offset points", color=color, fontsize=fontsize)
    axis.set(xlim=(0.7, len(steps) + 0.95), ylim=(-0.04 * last, 1.1 * last), xlabel="step")
    axis.set_ylabel("timestep (0: clean, top: pure noise)")
    axis.set_xticks([column + 1.3 for column in range(len(steps))], [str(column + 1) for column in range(len(steps))])
    axis.grid(axis="y", alpha=0.3)


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str, linestyle: str = "-") -> None:
    """An arrow in data coordinates, with room for the markers at its ends."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "linestyle": linestyle, "shrinkA": 5, "shrinkB": 6}
    axis.annotate("", end, start, arrowprops=style)


def _legend(figure: Figure, labels: Mapping[str, str], *more: Line2D) -> None:
    """A legend below the axes: color -> label."""
    lines = [
        Line2D([], [], color=color, ls="--" if color == NOISE else "-", marker=MARKERS.get(color, ""), label=label)
        for color, label in labels.items()
    ]
    figure.legend(handles=[*lines, *more], loc="outside lower center", ncols=4, frameon=False)


def timelines(schedules: Mapping[str, Sequence[Sequence[ScheduleStep]]]) -> Figure:
    """Plot timesteps and shifted timesteps: a panel for each title, a row for each of its schedules."""
    figure, axes = panels(1, len(schedules), (5.6 * len(schedules), 4.2), squeeze=False, sharey=True)
    for axis, (title, rows) in zip(axes[0], schedules.items(), strict=True):
        for row, steps in enumerate(rows):
            for step in steps:
                axis.plot([step.t, step.shifted], [row, row + 0.3], color="0.7", lw=1, zorder=1)
                for point, color, offset in (((step.t, row), LATENT, 6), ((step.shifted, row + 0.3), SHIFTED, -14)):
                    axis.plot(*point, MARKERS[color], color=color, ms=8)
                    style = {"textcoords": "offset points", "ha": "center", "color": color}
                    axis.annotate(str(point[0]), point, (0, offset), **style)
        axis.set(title=title, xlabel="timestep", xlim=(-30, 1060), ylim=(len(rows) - 0.35, -0.4))
        axis.set_yticks(range(len(rows)), [str(len(steps)) for steps in rows])
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_ylabel("number of steps")
    _legend(figure, {LATENT: "timestep t", SHIFTED: "shifted timestep t'"})
    return figure


def amplification(alphas_cumprod: torch.Tensor, marked: Sequence[int] = (999, 499, 249)) -> Figure:
    """Plot what t' does to errors in x0 (left), and the prediction that it requires of a one-step student (right)."""
    figure, (left, right) = panels(1, 2, (10.5, 4.0), sharex=True)
    alphas = alphas_cumprod.double()
    root, sigma, std = alphas.rsqrt(), sigmas(alphas), target_std(alphas)
    left.plot(root, color=PALETTE[0], label="1/√ᾱ: of an error in the latent")
    left.plot(sigma, "--", color=PALETTE[1], label="σ = √(1−ᾱ)/√ᾱ: of an error in ε")
    for t in marked:
        left.plot([t, t], [root[t], sigma[t]], "o", color="black", ms=5)
        text = f"t' = {t}\n{root[t]:.2f} | {sigma[t]:.2f}"
        left.annotate(text, (t, root[t]), (-8, 6), textcoords="offset points", ha="right")
    left.set(yscale="log", ylim=(0.02, 40), ylabel="amplification in x0", title="Amplification of errors")
    left.legend(loc="lower right")
    right.plot(std, color=PALETTE[2], label="standard deviation of the target ε'")
    right.plot(std * sigma, "--", color=PALETTE[3], label="times σ: error in x0 of a relative error of 1")
    right.set(yscale="log", ylabel="standard deviation", title="Target of a one-step student")
    right.legend(loc="upper center")
    _finish((left, right), "shifted timestep t'")
    return figure


def _finish(axes: Sequence[Axes], xlabel: str) -> None:
    """Label the x axes and draw a grid."""
    for axis in axes:
        axis.set_xlabel(xlabel)
        axis.grid(alpha=0.3)


def measured_errors(
    timesteps: Sequence[int], computed: Sequence[float], latent: Sequence[float], pixel: Sequence[float]
) -> Figure:
    """Plot the RMSE of x0 at each shifted timestep: as computed, as measured in the latent, and after decoding."""
    figure, axis = panels(1, 1, (6.5, 3.8))
    axis.plot(timesteps, computed, "-", color="0.5", label="computed: σ(t') × error in ε")
    axis.plot(timesteps, latent, MARKERS[LATENT], color=LATENT, label="measured in the latent")
    axis.plot(timesteps, pixel, MARKERS[SHIFTED], color=SHIFTED, label="measured in the image (pixels in [−1, 1])")
    axis.set(yscale="log", ylabel="root mean square error")
    axis.legend(loc="upper left")
    _finish([axis], "shifted timestep t'")
    return figure


def sweep(points: Sequence[SweepPoint], trained: int) -> Figure:
    """Plot metrics over the shift at inference, with standard errors and the shift that the model was trained at."""
    figure, (left, right) = panels(1, 2, (10.5, 3.8))
    shifts = [point.shift for point in points]
    for axis, name, color in ((left, "fd", PALETTE[0]), (right, "accuracy", PALETTE[2])):
        means, errors = zip(*(getattr(point, name) for point in points), strict=True)
        axis.errorbar(shifts, means, errors, color=color, fmt="o-", capsize=4, ms=5)
        axis.axvline(trained, color=PALETTE[1], ls="--", label=f"trained at {trained}")
        axis.legend(loc="best")
    left.set(ylabel="FD (features of the scene classifier)", ylim=(0, None), title="Distance: lower is better")
    right.set(ylabel="all six factors right", title="Prompt accuracy: higher is better", ylim=(0, 1.05))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    _finish((left, right), "shifted_timestep at inference")
    return figure
