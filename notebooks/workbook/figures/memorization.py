"""What the refresh of the pool does where few real samples are given: curves of docs/memorization.csv."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t as students_t

from nitro_lab.plots.canvas import PALETTE, panels

__all__ = ["REFRESH_RATES", "memorization_curves"]

REFRESH_RATES = ("no refresh", "refresh 0.1%", "refresh 1.0%", "refresh 5.0%")
_TITLES = {
    "memorization": "Memorization: logit of own − other reals",
    "FD": "Fréchet distance (lower is better)",
    "all": "Captions right",
}


def memorization_curves(rows: pd.DataFrame, variants: Sequence[str] = REFRESH_RATES) -> Figure:
    """Plot memorization, distance and captions over the steps: means over seeds, with their 95 % intervals.

    Args:
        rows: of `benchmarks/memorization.py`. Runs that are not finished, and variants with fewer than two finished
            runs, are left out.
        variants: their names, one color each.
    """
    last = rows.groupby(["variant", "seed"])["step"].transform("max")
    finished = rows[last == rows["step"].max()]
    seeds = finished.groupby("variant")["seed"].nunique()
    drawn = [name for name in variants if seeds.get(name, 0) > 1]
    figure, axes = panels(1, 3, (10.5, 3.6), squeeze=False)
    for axis, (metric, title) in zip(axes[0], _TITLES.items(), strict=True):
        for color, name in zip(PALETTE, variants, strict=False):
            if name in drawn:
                values = finished[finished["variant"] == name].dropna(subset=[metric]).groupby("step")[metric]
                mean, half = values.mean(), values.sem() * students_t.ppf(0.975, values.count() - 1)
                axis.plot(mean.index, mean, color=color, label=f"{name} ({seeds[name]} seeds)")
                axis.fill_between(mean.index, mean - half, mean + half, color=color, alpha=0.2, lw=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
