"""Pictures of a comparison. Rows of the table, reports or results in, Figure out; nothing trains here."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from nitro_lab.compare.run import PIXELS, Result
from nitro_lab.compare.table import Row
from nitro_lab.plots.canvas import PALETTE, panels, picture_grid
from nitro_lab.plots.training import running_mean

BETTER = {"FD": "lower", "KID": "lower", "repetition": "lower"}  # of all others, the higher
SHOWN = ("all", "texture", "FD", "recall")
CLEAR, UNCLEAR = PALETTE[0], "0.6"
CURVES = {"margin": "mean logit of reals − of fakes", "critic_loss": "loss", "student_loss": "loss"}
DASHES = ("-", "--", ":", "-.")


def differences(rows: Sequence[Row], marks: Sequence[str] = SHOWN) -> Figure:
    """Paired differences from the reference with their 95 % intervals, a panel for each mark.

    An interval that does not reach 0 is drawn in blue and full, the others in grey and hollow.

    Raises:
        ValueError: if no row has one of the marks.
    """
    missing = [mark for mark in marks if not any(mark in row.differences for row in rows)]
    if missing:
        known = ", ".join(sorted({mark for row in rows for mark in row.differences})) or "none, since all failed"
        raise ValueError(f"No row has {', '.join(missing)}; the marks are {known}.")
    figure, axes = panels(1, len(marks), (2.2 + 2.6 * len(marks), 1.3 + 0.32 * len(rows)), sharey=True, squeeze=False)
    for axis, mark in zip(axes[0], marks, strict=True):
        draw_differences(axis, rows, mark)
    axes[0][0].set_yticks(range(len(rows)), [row.variant for row in rows])
    axes[0][0].invert_yaxis()
    return figure


def draw_differences(axis: Axes, rows: Sequence[Row], mark: str) -> None:
    """One mark: a dot and a bar for each variant that has it."""
    for place, row in enumerate(rows):
        part = row.differences.get(mark)
        if part is None or not part.n:
            word, where = "failed" if row.failed else "no pair", ("axes fraction", "data")
            axis.annotate(word, (0.03, place), xycoords=where, fontsize=8, va="center")
            continue
        half = 0.0 if np.isnan(part.half) else part.half
        clear = half > 0 and abs(part.mean) > half
        color = CLEAR if clear else UNCLEAR
        axis.errorbar(part.mean, place, xerr=half, fmt="o", color=color, mfc=color if clear else "white", capsize=3)
    axis.axvline(0, color="0.35", linestyle="--", lw=1)
    axis.set(title=f"{mark} ({BETTER.get(mark, 'higher')} is better)", xlabel="difference from the reference")
    axis.title.set_fontsize(9)
    axis.grid(alpha=0.3)


def curves(
    reports: Mapping[str, Sequence[Mapping[str, ArrayLike]]], shown: Sequence[str] = tuple(CURVES), memory: int = 25
) -> Figure:
    """How margins and losses went, a panel for each column: the mean over seeds, and their range as a band.

    Args:
        reports: variant -> for each seed, columns of its reports.csv, as `nitro_lab.runs.folder.read_reports` gives
            them. Seeds of different length (a run that failed) are drawn as far as the shortest.
        shown: columns.
        memory: steps that a curve is the running mean of.

    Raises:
        ValueError: if there is nothing to draw.
    """
    if not reports or not all(reports.values()):
        raise ValueError("Each variant needs the reports of one seed or more, {name: [read_reports(folder), ...]}.")
    figure, axes = panels(1, len(shown), (4.5 * len(shown), 4.2), squeeze=False)
    styles = [(color, dash) for dash in DASHES for color in PALETTE]  # colours first: they are told apart most easily
    for axis, column in zip(axes[0], shown, strict=True):
        for (name, seeds), (color, dash) in zip(reports.items(), cycle(styles), strict=False):
            draw_seeds(axis, [smooth(seed, column, memory) for seed in seeds], name, color, dash)
        axis.set(title=column.replace("_", " "), xlabel="step", ylabel=CURVES.get(column, column))
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def smooth(report: Mapping[str, ArrayLike], column: str, memory: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps that have a number in a column, and its running mean there."""
    steps, values = (np.asarray(report[name], dtype=float) for name in ("step", column))
    finite = np.isfinite(values)  # the student's loss is none where only the critics learned
    return steps[finite], running_mean(values[finite], memory)


def draw_seeds(axis: Axes, seeds: Sequence[tuple[np.ndarray, np.ndarray]], name: str, color: str, dash: str) -> None:
    """One variant: a line, and a band from the lowest seed to the highest."""
    length = min(len(steps) for steps, _ in seeds)
    steps, values = seeds[0][0][:length], np.stack([values[:length] for _, values in seeds])
    axis.plot(steps, values.mean(0), color=color, linestyle=dash, lw=1.6, label=name)
    if len(seeds) > 1:
        axis.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.15, lw=0)


def grids(results: Sequence[Result], shown: int) -> Figure | None:
    """A row of pictures for each variant, of its lowest seed that is here: the same noise and captions.

    Returns:
        None where no run's pictures are on this machine.
    """
    first: dict[str, Result] = {}
    for result in results:
        if result.grid.is_file():
            known = first.setdefault(result.variant, result)
            first[result.variant] = min(known, result, key=lambda either: either.seed)
    if not first:
        return None
    captions = next(iter(first.values())).captions or [""] * shown
    rows = {name: cut(result.grid)[:shown] for name, result in first.items()}
    return picture_grid(rows, captions[:shown], size=1.4)


def cut(grid: Path) -> list[Image.Image]:
    """The pictures of a run's grid.png, which has one row."""
    with Image.open(grid) as picture:
        whole = picture.convert("RGB")
    return [whole.crop((left, 0, left + PIXELS, PIXELS)) for left in range(0, whole.width, PIXELS)]
