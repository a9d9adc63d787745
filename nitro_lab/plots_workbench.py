"""Pictures of notebook 05: what newborn heads say, and the grids of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from nitro_lab.canvas import PALETTE, panels, picture_grid
from nitro_lab.compare_run import PIXELS, Result
from nitro_lab.head_report import HeadReport

SIDES = (("teacher's samples", PALETTE[0], -0.15, "o"), ("student's", PALETTE[1], 0.15, "D"))


def first_logits(reports: Mapping[str, HeadReport], view: int = 0) -> Figure:
    """Newborn heads' mean logit of each image, level by level; a panel for each head, all on one scale."""
    shape = (1.0 + 4.6 * len(reports), 3.8)
    figure, axes = panels(1, len(reports), shape, squeeze=False, sharey=True)
    for axis, (name, report) in zip(axes[0], reports.items(), strict=True):
        for (side, color, offset, marker), logits in zip(SIDES, (report.real, report.fake), strict=True):
            values = logits[view].numpy()  # (L, B)
            at = np.broadcast_to(np.arange(1, len(values) + 1)[:, None] + offset, values.shape)
            axis.plot(at.ravel(), values.ravel(), marker, color=color, ms=4, alpha=0.6, mec="none", label=side)
        axis.axhline(0, color="0.35", linestyle="--", lw=1)
        axis.set(title=name, xlabel="feature level", xticks=range(1, report.real.shape[1] + 1))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("logit, mean of a cell's heads")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


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
