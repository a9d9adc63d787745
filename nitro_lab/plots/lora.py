"""The error of a LoRA that was extracted from a student, tensor by tensor."""

import re

import pandas as pd
from matplotlib.figure import Figure

from nitro_lab.plots.canvas import PALETTE, panels

__all__ = ["plot_errors"]

_MARKERS = {"convolution": "o", "attention": "s", "feed-forward": "^", "other linear": "D", "bias or norm": "x"}


def plot_errors(table: pd.DataFrame) -> Figure:
    """Plot the table of `extract_lora`: how much each tensor differs, and which part of that the LoRA lacks."""
    figure, (above, below) = panels(2, 1, (10, 6), sharex=True)
    table = table.assign(place=range(len(table)), lacking=100 * (table.error / table.difference) ** 2)
    for color, (kind, marker) in zip(PALETTE, _MARKERS.items(), strict=False):
        rows = table[(table.kind == kind) & (table.difference > 0)]
        for axis, values in ((above, rows.difference), (below, rows.lacking)):
            axis.scatter(rows.place, values, 14, color, marker=marker, linewidths=0.8, label=kind)
            axis.grid(alpha=0.3)
    blocks = table.index.str.extract(r"^((?:down|up)_blocks\.\d+|mid_block)", expand=False)
    starts = table.place.groupby(blocks).min()
    above.set(yscale="log", ylabel="‖student − base‖")
    above.legend(ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    below.set(xlabel="tensors of the UNet; a block begins at its tick", ylim=(-3, 103))
    below.set_ylabel("squared difference\nthat the LoRA lacks (%)")
    names = [re.sub(r"_blocks?\.?", " ", name) for name in starts.index]
    below.set_xticks(starts, names, rotation=90)  # the first block of SDXL is narrow
    return figure
