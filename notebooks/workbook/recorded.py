"""Recorded comparisons at full length: tables of the scripts in benchmarks/, with one row per run."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from nitro_lab.experiments.summary import LOWER_IS_BETTER, format_summary, summarize
from workbook.figures.compare import paired_differences

__all__ = ["read_recorded", "recorded_differences", "recorded_means"]


def read_recorded(table: Path, command: str) -> pd.DataFrame:
    """Read the runs of a table, and print how many there are, or the command that makes it if there is none.

    Rows of another length or another number of images than most are left out, so that the runs can be compared.

    Returns:
        A row per run, as `nitro_lab.experiments.summary.to_frame` makes it; an empty table if there is none.
    """
    if not table.exists():
        print(f"{table} does not exist yet. This makes it, in hours: {command}")
        return pd.DataFrame()
    rows = pd.read_csv(table)
    steps, num_images = rows[["steps", "num_images"]].value_counts().index[0]
    rows = rows[(rows["steps"] == steps) & (rows["num_images"] == num_images)]
    rows = rows.drop_duplicates(["variant", "seed"], keep="last")
    seeds = rows["variant"].value_counts()
    several = f"{seeds.min()} to {seeds.max()}" if seeds.min() < seeds.max() else f"{seeds.max()}"
    print(
        f"{rows['variant'].nunique()} variants at {several} seed(s), {steps} steps, {num_images} images. "
        f"The reference is {_reference(rows)}."
    )
    return rows


def recorded_means(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame | None:
    """Means of all variants, the best in the first metric first, with the number of seeds; None if there are no runs.

    Metrics that the table does not have are left out.
    """
    if rows.empty:
        return None
    summary, known = _summarize(rows), _known(rows, metrics)
    table = format_summary(summary, known).xs("mean", level=1)
    first = summary[summary.index.get_level_values("metric") == known[0]].droplevel("metric")
    first = first.sort_values("mean", ascending=known[0] in LOWER_IS_BETTER)
    counts = first[["num_seeds", "num_failed"]].set_axis(["seeds", "failed"], axis=1)
    return counts.join(table)


def recorded_differences(rows: pd.DataFrame, metrics: Sequence[str]) -> Figure | None:
    """Paired differences from the reference, as `paired_differences` draws them; None if there are no runs."""
    return None if rows.empty else paired_differences(_summarize(rows), _known(rows, metrics))


def _summarize(rows: pd.DataFrame) -> pd.DataFrame:
    """Means and paired differences of all variants."""
    return summarize(rows, _reference(rows))


def _reference(rows: pd.DataFrame) -> str:
    """The variant that the others are compared with: that of the comparison, if it has been run, else the first."""
    named = [name for name in rows.get("reference", pd.Series(dtype=str)).dropna() if name in set(rows["variant"])]
    return (named or list(rows["variant"]))[0]


def _known(rows: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """The metrics that the table has."""
    return [metric for metric in metrics if metric in rows.columns]
