"""Figures of notebook 04. Each function takes data and returns a Figure; none runs a model."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from nitro_lab.evaluation.metrics import wilson_interval
from nitro_lab.plots.canvas import PALETTE, panels
from workbook.refinement import LAYOUT_CUTOFF

__all__ = ["accuracy_by_steps", "change_spectra", "quality_and_time", "signed_changes", "similarity", "stage_orders"]

_STYLES = [dict[str, Any](color=color, marker=marker) for color, marker in zip(PALETTE, "osD^vPX", strict=True)]


def signed_changes(before: torch.Tensor, after: torch.Tensor, limit: float = 0.6) -> list[Image.Image]:
    """Map the change of brightness of images (N, 3, H, W) to red (lighter) and blue (darker), full from `limit`."""
    change = (after - before).float().mean(1).cpu().numpy()  # (N, H, W)
    return [Image.fromarray(image[..., :3]) for image in colormaps["RdBu_r"](change / limit / 2 + 0.5, bytes=True)]


def change_spectra(curves: Mapping[str, tuple[torch.Tensor, torch.Tensor]], reference: str) -> Figure:
    """Plot the power of the change in each step (`radial_spectrum`) over that of the images named `reference`."""
    figure, axis = panels(1, 1, (7, 3.8))
    changes = {name: curve for name, curve in curves.items() if name != reference}
    for style, (name, (frequency, power)) in zip(_STYLES, changes.items(), strict=False):
        axis.plot(frequency.cpu(), (power / curves[reference][1]).cpu(), **style, markevery=4, label=name)
    axis.axvline(LAYOUT_CUTOFF, color="0.4", linestyle=":")
    axis.annotate(" layout | detail", (LAYOUT_CUTOFF, 0.95), xycoords=("data", "axes fraction"), ha="center")
    axis.set(xlabel="frequency (cycles per pixel)", xlim=(0, 0.5), ylim=(0, None))
    axis.set(ylabel=f"power of the change /\npower of {reference}", title="What a step changes, by frequency")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return figure


def accuracy_by_steps(metrics: Mapping[int, Mapping[str, float]], factors: Sequence[str], num_images: int) -> Figure:
    """Plot the accuracy of some factors over the number of steps, with 95 % intervals."""
    figure, axis = panels(1, 1, (7, 3.6))
    steps = np.array(list(metrics))
    for index, (style, factor) in enumerate(zip(_STYLES, factors, strict=False)):
        values = np.array([metrics[n][factor] for n in steps])
        errors = np.abs(np.array([wilson_interval(value, num_images) for value in values]).T - values)
        axis.errorbar(steps + 0.06 * (index - 1), values, errors, **style, capsize=3, label=factor)
    axis.set(xticks=steps, xlabel="steps", ylabel="accuracy", title="Factors that are as in the prompt")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def similarity(similarities: Mapping[str, torch.Tensor]) -> Figure:
    """Plot the cumulative distribution of layout similarities to the one-step images."""
    figure, axis = panels(1, 1, (7, 3.4))
    for color, (name, values) in zip(PALETTE, similarities.items(), strict=False):
        axis.ecdf(values.cpu().numpy(), color=color, label=f"{name}: median {values.median():.2f}")
    axis.set(xlabel="similarity to the layout of the one-step image", ylabel="fraction of images", ylim=(0, 1))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper left", frameon=False)
    return figure


def quality_and_time(tables: Mapping[str, pd.DataFrame], seconds: Mapping[str, Mapping[int, float]]) -> Figure:
    """Plot the Fréchet distance over calls of the UNet, and over seconds per image.

    tables: model -> its rows of `read_metrics`; seconds: model -> number of steps -> seconds, where there are any.
    """
    figure, (left, right) = panels(1, 2, (11, 4.4), sharey=True)
    rows = {name: table.assign(seconds=table["steps"].map(seconds.get(name, {}))) for name, table in tables.items()}
    _plot(left, rows, "calls", "FD", xscale="log", xlabel="UNet calls per image", ylabel="Fréchet distance to renders")
    _plot(right, rows, "seconds", "FD", xscale="log", xlabel="seconds per image on this machine (labels: steps)")
    for x, y, steps in pd.concat(rows.values())[["seconds", "FD", "steps"]].dropna().values.tolist():
        right.annotate(f"{steps:.0f}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8)
    left.set(yscale="log", ymargin=0.1)
    for axis, ticks in ((left.xaxis, (1, 2, 5)), (right.xaxis, (1, 2, 5)), (left.yaxis, (1, 1.2, 1.5, 2, 3, 5))):
        axis.set(major_locator=LogLocator(subs=ticks), major_formatter="{x:g}", minor_formatter=NullFormatter())
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def stage_orders(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot Fréchet distance and sharpness over the number of steps, for students trained in different orders."""
    figure, (left, right) = panels(1, 2, (10.5, 3.6))
    _plot(left, tables, "steps", "FD", xticks=range(1, 5), xlabel="steps", ylabel="Fréchet distance to renders")
    _plot(right, tables, "steps", "sharpness", xticks=range(1, 5), xlabel="steps", ylabel="sharpness / renders'")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _plot(axis: Any, tables: Mapping[str, pd.DataFrame], x: str, y: str, **options: Any) -> None:
    for style, (name, table) in zip(_STYLES, tables.items(), strict=False):
        axis.plot(table[x], table[y], **style, label=name)
    axis.set(**options)
    axis.grid(alpha=0.3)
