"""What heads say. Reports in, Figure out; nothing runs here."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from nitro_lab.plots.canvas import PALETTE, panels
from nitro_lab.studies.head_report import HeadReport

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
