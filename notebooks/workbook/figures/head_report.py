"""First logits of discriminator heads."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from nitro_lab.plots.canvas import PALETTE, panels
from workbook.head_report import HeadReport

__all__ = ["initial_logits"]


def initial_logits(reports: Mapping[str, HeadReport], view: int = 0) -> Figure:
    """Mean logit of each image by untrained heads of one view, over the feature levels; a panel for each head."""
    figure, axes = panels(1, len(reports), (1.0 + 4.6 * len(reports), 3.8), squeeze=False, sharey=True)
    for axis, (name, report) in zip(axes[0], reports.items(), strict=True):
        for logits, label, offset in ((report.real[view], "real", -0.15), (report.fake[view], "fake", 0.15)):
            color, marker = (PALETTE[0], "o") if label == "real" else (PALETTE[1], "D")
            levels = [[level + offset] * logits.shape[1] for level in range(len(logits))]
            axis.scatter(levels, logits, 16, color, marker=marker, alpha=0.6, linewidths=0, label=label)
        axis.axhline(0, color="0.35", linestyle="--", lw=1)
        axis.set(title=name, xlabel="feature level", xticks=range(len(report.real[view])))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("logit, mean of a cell's heads")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
