"""Pictures of the refinement notebook. Each function takes data and gives a Figure; none runs a model."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from PIL import Image

from nitro_lab.evaluate import interval
from nitro_lab.plots.canvas import PALETTE, panels
from nitro_lab.studies.refinement import COARSE, Rows

MARKERS = "osD^vPX"
LIMIT = 0.6  # change of brightness that gets the full colour


def signed_pictures(before: torch.Tensor, after: torch.Tensor) -> list[Image.Image]:
    """Change of brightness of N pictures (N, 3, H, W): red is lighter, blue is darker, white is as before."""
    brighter = (after - before).float().mean(1).cpu().numpy()  # (N, H, W)
    colors = colormaps["RdBu_r"](np.clip(brighter / LIMIT, -1, 1) / 2 + 0.5)
    return [Image.fromarray((255 * picture[..., :3]).astype(np.uint8)) for picture in colors]


def change_spectra(curves: Mapping[str, tuple[torch.Tensor, torch.Tensor]], picture: str) -> Figure:
    """Power of what a step changed, over that of the picture itself.

    Args:
        curves: name -> frequencies and power, as `nitro_lab.evaluate.radial_spectrum` gives them.
        picture: name of the curve that the others are divided by.
    """
    figure, axis = panels(1, 1, (7, 3.8))
    for color, marker, (name, (frequency, power)) in zip(PALETTE, MARKERS, curves.items(), strict=False):
        if name != picture:
            share = (power / curves[picture][1]).cpu()
            axis.plot(frequency.cpu(), share, color=color, marker=marker, markevery=4, label=name)
    axis.axvline(COARSE, color="0.4", linestyle=":")
    axis.text(COARSE, 0.98, " layout | detail", transform=axis.get_xaxis_transform(), ha="center", va="top", fontsize=9)
    axis.set(xlabel="frequency (cycles per pixel)", xlim=(0, 0.5), ylim=(0, None))
    axis.set(ylabel=f"power of the change /\npower of {picture}", title="What a step changes, frequency by frequency")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def accuracy_by_steps(marks: Mapping[int, Mapping[str, float]], factors: Sequence[str], images: int) -> Figure:
    """Share of pictures as asked, factor by factor, over the number of steps; bars are 95 % intervals."""
    figure, axis = panels(1, 1, (7, 3.6))
    steps = list(marks)
    for index, (color, factor) in enumerate(zip(PALETTE, factors, strict=False)):
        shares = np.array([marks[count][factor] for count in steps])
        ends = np.array([interval(share, images) for share in shares]).T
        places = np.array(steps) + 0.06 * (index - (len(factors) - 1) / 2)
        errors = np.abs(ends - shares)
        axis.errorbar(places, shares, errors, color=color, marker=MARKERS[index], capsize=3, label=factor)
    axis.set(xticks=steps, xlabel="steps", ylabel="pictures as asked", title="What the judge reads off the pictures")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def likeness_curves(likeness: Mapping[str, torch.Tensor]) -> Figure:
    """Share of pictures whose layout is at most so like that of the one-step picture."""
    figure, axis = panels(1, 1, (7, 3.4))
    for color, (name, values) in zip(PALETTE, likeness.items(), strict=False):
        axis.ecdf(values.cpu().numpy(), color=color, label=f"{name}: median {values.median():.2f}")
    axis.set(xlabel="likeness to the one-step picture (correlation of the layouts)", ylabel="share of pictures")
    axis.set(title="Is it still the same picture?", ylim=(0, 1))
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", frameon=False)
    return figure


def frontier(exams: Mapping[str, Rows], seconds: Mapping[str, Mapping[int, float]]) -> Figure:
    """Fréchet distance over passes of the UNet, and over measured seconds an image where there are some.

    Args:
        exams: model -> its rows by number of steps, as `nitro_lab.studies.refinement.read_exams` gives them.
        seconds: model -> number of steps -> seconds an image.
    """
    figure, (left, right) = panels(1, 2, (11, 4.4), sharey=True)
    for color, marker, (name, rows) in zip(PALETTE, MARKERS, exams.items(), strict=False):
        style = {"color": color, "marker": marker, "label": name}
        left.plot([int(row["calls"]) for row in rows], [float(row["FD"]) for row in rows], **style)
        timed = [(seconds[name][int(r["steps"])], float(r["FD"]), r["steps"]) for r in rows if name in seconds]
        right.plot([point[0] for point in timed], [point[1] for point in timed], **style)
        for spent, distance, steps in timed:
            right.annotate(steps, (spent, distance), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    left.set(xscale="log", xlabel="passes of the UNet for an image", ylabel="Fréchet distance to the world")
    right.set(xscale="log", xlabel="seconds an image on this machine (numbers: steps)")
    calls = sorted({int(row["calls"]) for rows in exams.values() for row in rows})
    left.set_xticks(calls, [str(count) if count not in (3, 24) else "" for count in calls], minor=False)
    left.minorticks_off()
    left.set(yscale="log")
    left.margins(y=0.1)
    for axis, ticks in ((right.xaxis, (1, 2, 5)), (left.yaxis, (1, 1.2, 1.5, 2, 3, 5))):
        axis.set_major_locator(LogLocator(subs=ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    for panel in (left, right):
        panel.grid(alpha=0.3)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def orders(exams: Mapping[str, Rows]) -> Figure:
    """Fréchet distance and sharpness over the number of steps, for students that learned the stages in other orders."""
    figure, axes = panels(1, 2, (10.5, 3.6))
    for axis, mark, title in zip(
        axes, ("FD", "sharpness"), ("Fréchet distance", "sharpness / the world's"), strict=True
    ):
        for color, marker, (name, rows) in zip(PALETTE, MARKERS, exams.items(), strict=False):
            steps = [int(row["steps"]) for row in rows]
            axis.plot(steps, [float(row[mark]) for row in rows], color=color, marker=marker, label=name)
        axis.set(xticks=steps, xlabel="steps", ylabel=title)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure
