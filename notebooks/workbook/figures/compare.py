"""Figures of a comparison: paired differences, curves over seeds, sample grids."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from nitro_lab.experiments.summary import LOWER_IS_BETTER, NO_DIRECTION
from nitro_lab.plots.canvas import PALETTE, escape, panels, picture_grid

__all__ = ["paired_differences", "report_curves", "sample_grids"]

_LABELS = {"logit_gap": "mean logit of real − fake", "disc_loss": "loss", "student_loss": "loss"}


def paired_differences(
    summary: pd.DataFrame, metrics: Sequence[str] = ("told_apart", "all", "FD", "FD (random)")
) -> Figure:
    """Differences from the reference with their 95 % intervals, a panel for each metric.

    Differences whose interval excludes 0 are blue and filled, all others gray and hollow.

    Args:
        summary: from `nitro_lab.experiments.summary.summarize`.

    Raises:
        ValueError: if the summary lacks one of the metrics.
    """
    known = summary.index.unique("metric")
    if missing := [metric for metric in metrics if metric not in known]:
        raise ValueError(f"metrics contains {', '.join(missing)}; choose from {', '.join(known)}.")
    variants = summary.index.unique("variant")
    inches = (2.2 + 2.6 * len(metrics), 1.3 + 0.32 * len(variants))
    figure, axes = panels(1, len(metrics), inches, sharey=True, squeeze=False)
    for axis, metric in zip(axes[0], metrics, strict=True):
        _draw_differences(axis, summary[summary.index.get_level_values("metric") == metric])
        direction = f" ({'lower' if metric in LOWER_IS_BETTER else 'higher'} is better)"
        axis.set_title(escape(metric) + ("" if metric in NO_DIRECTION else direction), fontsize=9)
    axes[0][0].set_yticks(range(len(variants)), map(escape, variants))
    axes[0][0].invert_yaxis()
    return figure


def _draw_differences(axis: Axes, rows: pd.DataFrame) -> None:
    """One metric: a point and a bar for each variant that has a difference."""
    columns = rows[["num_pairs", "num_failed", "difference", "difference_half"]].to_numpy(float)
    for place, (num_pairs, num_failed, difference, half) in enumerate(np.nan_to_num(columns)):
        if not num_pairs:
            text = "failed" if num_failed else "no pair"
            axis.annotate(text, (0.03, place), xycoords=("axes fraction", "data"), fontsize=8, va="center")
            continue
        shown = abs(difference) > half > 0
        color = PALETTE[0] if shown else "0.6"
        bar = half or None  # none where there is no interval
        axis.errorbar(difference, place, xerr=bar, fmt="o", color=color, mfc=color if shown else "white", capsize=3)
    axis.axvline(0, color="0.35", linestyle="--", lw=1)
    axis.set_xlabel("difference from the reference")
    axis.grid(alpha=0.3)


def report_curves(
    reports: Mapping[str, Sequence[pd.DataFrame]], columns: Sequence[str] = tuple(_LABELS), window: int = 25
) -> Figure:
    """Logit gaps and losses over the steps: mean of the seeds as a line, their range as a band.

    Args:
        reports: variant -> the reports of each seed, as `nitro_lab.training.run.read_reports` returns them. Seeds of
            different length (failed runs) are drawn as far as the shortest.
        columns: of the reports, a panel for each. window: number of values in the running mean.

    Raises:
        ValueError: if a variant has no reports.
    """
    if not reports or not all(reports.values()):
        raise ValueError(f"reports is {dict(reports)!r}; give the reports of one seed or more for each variant.")
    figure, axes = panels(1, len(columns), (4.5 * len(columns), 4.2), squeeze=False)
    styles = [(color, dash) for dash in ("-", "--", ":", "-.") for color in PALETTE]
    for axis, column in zip(axes[0], columns, strict=True):
        for (name, seeds), (color, dash) in zip(reports.items(), cycle(styles), strict=False):
            curves = [seed.set_index("step")[column].dropna().rolling(window, min_periods=1).mean() for seed in seeds]
            mean = pd.concat(curves, axis=1, join="inner").agg(["mean", "min", "max"], axis=1)
            axis.plot(mean.index, mean["mean"], color=color, linestyle=dash, lw=1.6, label=escape(name))
            if len(seeds) > 1:
                axis.fill_between(mean.index, mean["min"], mean["max"], color=color, alpha=0.15, lw=0)
        title = escape(column)
        axis.set(title=title.replace("_", " "), xlabel="step", ylabel=_LABELS.get(column, title))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def sample_grids(runs: pd.DataFrame, num_images: int = 8) -> Figure:
    """Samples of each variant's lowest seed, a row each, for the same captions and noise.

    Args:
        runs: from `nitro_lab.experiments.summary.to_frame`.
    """
    first = runs[runs["failed"] == ""].sort_values("seed", kind="stable").drop_duplicates("variant").sort_index()
    rows = {run.variant: _split_grid(run.grid)[:num_images] for run in first.itertuples()}
    return picture_grid(rows, first["captions"].iloc[0][:num_images], size=1.4)


def _split_grid(grid: Path) -> list[Image.Image]:
    """The square images of a PNG with one row."""
    with Image.open(grid) as opened:
        image = opened.convert("RGB")
    return [image.crop((left, 0, left + image.height, image.height)) for left in range(0, image.width, image.height)]
