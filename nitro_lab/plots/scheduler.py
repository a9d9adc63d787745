"""Pictures of the scheduler notebook. Each function takes data and gives a Figure; none runs a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from nitro_lab.plots.canvas import PALETTE, panels
from nitro_lab.studies.shift import SweepPoint, Tick, sigmas, target_size

TRUE, TOLD, NOISE = PALETTE[0], PALETTE[1], PALETTE[2]  # one colour for each clock, in all pictures
NAMES = {
    TRUE: "① the latent is at the true t",
    TOLD: "② the UNet is told t', and so is x0's formula",
    NOISE: "③ fresh noise up to the next true t",
}
MARKS = {TRUE: "o", TOLD: "s"}
TIME_LABEL = "timestep t  (0: clean, top: pure noise)"


def clocks(ticks: Sequence[Tick], last: int = 999) -> Figure:
    """The three clocks as one path: from each true timestep to what the UNet is told, to x0, and up to the next.

    Args:
        last: the end of the time axis, pure noise.
    """
    figure, axis = panels(1, 1, (10.5, 4.6))
    draw_clocks(axis, ticks, last)
    figure.legend(handles=clock_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def explorer(ticks: Sequence[Tick], alphas_cumprod: torch.Tensor) -> Figure:
    """The clocks, and beside them, on the same time axis, what an error in ε costs at each time."""
    figure, (left, right) = panels(1, 2, (10.5, 5.0), sharey=True, width_ratios=(3, 1))
    last = len(alphas_cumprod) - 1
    draw_clocks(left, ticks, last)
    cost = sigmas(alphas_cumprod.double())
    right.plot(cost, torch.arange(last + 1), color="0.5")
    for times, color in (([tick.true for tick in ticks], TRUE), ([tick.told for tick in ticks], TOLD)):
        right.plot(cost[times], times, MARKS[color], color=color, ms=8)
    right.set(xscale="log", xlabel="σ(t): error in x0 for 1 in ε", xlim=(0.02, 30))
    right.grid(alpha=0.3)
    figure.legend(handles=clock_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def draw_clocks(axis: Axes, ticks: Sequence[Tick], last: int) -> None:
    """The path of `clocks` on axes of one's own: time upwards, one column for each step."""
    for column, tick in enumerate(ticks, 1):
        latent, unet, x0 = (column, tick.true), (column + 0.3, tick.told), (column + 0.6, 0)
        arrow(axis, latent, unet, TRUE)
        arrow(axis, unet, x0, TOLD)
        if tick.then is not None:
            arrow(axis, x0, (column + 1, tick.then), NOISE, linestyle=(0, (4, 3)))
        axis.plot(*latent, MARKS[TRUE], color=TRUE, ms=10)
        axis.plot(*unet, MARKS[TOLD], color=TOLD, ms=9)
        axis.plot(*x0, "D", color="black", ms=8, clip_on=False)
        small = 10 if len(ticks) <= 6 else 7
        axis.annotate(
            str(tick.true), latent, (0, 9), textcoords="offset points", ha="center", color=TRUE, fontsize=small
        )
        axis.annotate(str(tick.told), unet, (9, 2), textcoords="offset points", color=TOLD, fontsize=small)
    axis.set(xlim=(0.7, len(ticks) + 0.95), ylim=(-0.04 * last, 1.1 * last), xlabel="step", ylabel=TIME_LABEL)
    columns = range(1, len(ticks) + 1)
    axis.set_xticks([column + 0.3 for column in columns], [str(column) for column in columns])
    axis.grid(axis="y", alpha=0.3)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], color: str, linestyle: Any = "-") -> None:
    """An arrow in data coordinates, with a little room for the markers at its ends."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.6, "linestyle": linestyle, "shrinkA": 5, "shrinkB": 6}
    axis.annotate("", end, start, arrowprops=style)


def clock_legend() -> list[Line2D]:
    """One entry for each clock, and one for x0."""
    styles: dict[str, Any] = {TRUE: "-", TOLD: "-", NOISE: "--"}
    entries = [
        Line2D([], [], color=color, linestyle=styles[color], marker=MARKS.get(color, ""), label=name)
        for color, name in NAMES.items()
    ]
    return [*entries, Line2D([], [], color="black", linestyle="", marker="D", label="x0")]


def timelines(schedules: Mapping[str, Sequence[Sequence[Tick]]]) -> Figure:
    """True and told timesteps, a panel for each shift and a row for each number of steps.

    Args:
        schedules: title -> schedules, each as `read_clocks` gives it.
    """
    figure, axes = panels(1, len(schedules), (5.6 * len(schedules), 4.2), squeeze=False, sharey=True)
    for axis, (title, rows) in zip(axes[0], schedules.items(), strict=True):
        for row, ticks in enumerate(rows):
            for tick in ticks:
                axis.plot([tick.true, tick.told], [row, row + 0.3], color="0.7", lw=1, zorder=1)
                axis.plot(tick.true, row, MARKS[TRUE], color=TRUE, ms=8)
                axis.plot(tick.told, row + 0.3, MARKS[TOLD], color=TOLD, ms=7)
                axis.annotate(
                    str(tick.true), (tick.true, row), (0, 6), textcoords="offset points", ha="center", color=TRUE
                )
                told = (tick.told, row + 0.3)
                axis.annotate(str(tick.told), told, (0, -14), textcoords="offset points", ha="center", color=TOLD)
        axis.set(title=title, xlabel="timestep t", xlim=(-30, 1060), ylim=(len(rows) - 0.35, -0.4))
        axis.set_yticks(range(len(rows)), [str(len(ticks)) for ticks in rows])
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_ylabel("steps")
    words = {TRUE: "true t", TOLD: "told t'"}
    markers = [Line2D([], [], color=color, marker=MARKS[color], ls="", label=name) for color, name in words.items()]
    figure.legend(handles=markers, loc="outside lower center", ncols=2, frameon=False)
    return figure


def amplification(alphas_cumprod: torch.Tensor, marked: Sequence[int] = (999, 499, 249)) -> Figure:
    """What a told timestep does to errors on the way to x0 (left), and what it asks of the UNet (right)."""
    figure, (left, right) = panels(1, 2, (10.5, 4.0))
    alphas = alphas_cumprod.double()
    root, sigma = alphas.rsqrt(), sigmas(alphas)
    left.plot(root, color=PALETTE[0], label="1/√ᾱ: of an error in the latent")
    left.plot(sigma, "--", color=PALETTE[1], label="σ = √(1−ᾱ)/√ᾱ: of an error in ε")
    for t in marked:
        left.plot([t, t], [root[t], sigma[t]], "o", color="black", ms=5)
        text = f"t' = {t}\n{root[t]:.2f} | {sigma[t]:.2f}"
        left.annotate(text, (t, root[t]), (-8, 6), textcoords="offset points", ha="right")
    left.set(yscale="log", ylim=(0.02, 40), ylabel="amplification in x0", title="The cost of an error")
    left.legend(loc="lower right")
    size = target_size(alphas)
    right.plot(size, color=PALETTE[2], label="size of the ε that is asked for")
    right.plot(size * sigma, "--", color=PALETTE[3], label="σ × size: cost of being 100 % wrong")
    right.set(yscale="log", ylabel="standard deviation", title="What a one-step student has to answer")
    right.legend(loc="upper center")
    for axis in (left, right):
        axis.set_xlabel("told timestep t'")
        axis.grid(alpha=0.3)
    return figure


def measured_errors(
    levels: Sequence[int], predicted: Sequence[float], latent: Sequence[float], pixel: Sequence[float]
) -> Figure:
    """Errors of x0 after a known error in ε: as computed, as measured in the latent, and in the decoded picture.

    Args:
        levels: timesteps; all others: root mean square errors, one for each level, in units of latents or of pixels
            in [-1, 1].
    """
    figure, axis = panels(1, 1, (6.5, 3.8))
    axis.plot(levels, predicted, "-", color="0.5", label="computed: σ(t') × error in ε")
    axis.plot(levels, latent, MARKS[TRUE], color=TRUE, label="measured in the latent")
    axis.plot(levels, pixel, MARKS[TOLD], color=TOLD, label="measured in the picture (pixels in [−1, 1])")
    axis.set(yscale="log", xlabel="told timestep t'", ylabel="error (root mean square)")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left")
    return figure


def sweep(points: Sequence[SweepPoint], trained: int) -> Figure:
    """Quality over the shift that a model is run at, with standard errors, and the shift it was trained at."""
    figure, (left, right) = panels(1, 2, (10.5, 3.8))
    shifts = [point.shift for point in points]
    style = {"fmt": "o-", "capsize": 4, "ms": 5}
    distances, errors = [point.distance for point in points], [point.distance_error for point in points]
    left.errorbar(shifts, distances, errors, color=PALETTE[0], **style)
    left.set(ylabel="Fréchet distance (judge's features)", ylim=(0, None))
    left.set_title("Distance to the world: lower is better")
    shares, errors = [point.accuracy for point in points], [point.accuracy_error for point in points]
    right.errorbar(shifts, shares, errors, color=PALETTE[2], **style)
    right.set(ylabel="images with all six factors right", title="Captions obeyed: higher is better", ylim=(0, 1.05))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in (left, right):
        axis.axvline(trained, color=PALETTE[1], ls="--", label=f"trained at {trained}")
        axis.set_xlabel("shifted_timestep at inference")
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    return figure
