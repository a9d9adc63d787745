"""Tables of a comparison: means over seeds and paired differences, with 95 % intervals (Student's t)."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

import numpy as np
import pandas as pd
from scipy.stats import t as students_t

from nitro_lab.evaluation import metrics
from nitro_lab.experiments.compare import Result

__all__ = ["LOWER_IS_BETTER", "NO_DIRECTION", "format_summary", "summarize", "to_frame"]

_LABELS = {field.name for field in fields(Result)} - {"seconds", "memory", "num_parameters", "logit_gap"}
LOWER_IS_BETTER = (*metrics.LOWER_IS_BETTER, "seconds", "memory", "num_parameters")
NO_DIRECTION = ("logit_gap", "sharpness")  # sharpness is best at 1, that of the renders


def to_frame(results: Iterable[Result]) -> pd.DataFrame:
    """One row per run: the fields of `Result`, with a column for each metric."""
    if not (rows := [{**vars(result), **result.metrics} for result in results]):
        raise ValueError("results is empty; run compare first.")
    return pd.DataFrame(rows).drop(columns="metrics")


def summarize(results: Iterable[Result] | pd.DataFrame, reference: str | None = None) -> pd.DataFrame:
    """Means and paired differences of each variant and metric. Failed runs are counted, but not averaged.

    Args:
        results: from `nitro_lab.experiments.compare.compare`, or a table as `to_frame` makes it.
        reference: variant that the others are compared with, by default the first of `compare`, or of the table.

    Returns:
        Indexed by variant and metric: num_seeds, num_failed, mean, mean_half (half of the 95 % interval), num_pairs,
        difference (variant − reference, mean over the seeds that both finished), difference_half, verdict. A half
        interval is NaN, and the verdict empty, for one seed and for seeds that agree up to rounding; the verdict is
        empty for metrics without a better direction, too.

    Raises:
        ValueError: if there is no result of the reference, or results differ in steps or num_images.
    """
    runs = results if isinstance(results, pd.DataFrame) else to_frame(results)
    runs = runs.drop_duplicates(["variant", "seed"], keep="last")
    variants, kinds = list(runs["variant"].unique()), runs[["steps", "num_images"]].drop_duplicates().values.tolist()
    if reference is None:
        reference = next((name for name in runs.get("reference", ()) if name in variants), variants[0])
    if reference not in variants or len(kinds) > 1:
        raise ValueError(
            f"reference is {reference!r} of {variants}, and results have [steps, num_images] {kinds}; the reference "
            "must be one of the variants, and all results must have the same steps and num_images."
        )
    variants.sort(key=lambda name: name != reference)
    failed = runs["failed"].notna() & (runs["failed"] != "")
    names = [name for name in runs.columns if name not in {*_LABELS, "told_apart_half"}]
    values = runs[~failed].melt(["variant", "seed"], names, "metric", "mean")
    paired = values[values["variant"] == reference].drop(columns="variant")
    values = values.merge(paired, "left", ["metric", "seed"], suffixes=("", "_reference"))
    values["difference"] = values["mean"] - values["mean_reference"]
    index = pd.MultiIndex.from_product([variants, names], names=["variant", "metric"])
    summary = pd.DataFrame(index=index)
    values["size"] = values[["mean", "mean_reference"]].abs().max(axis=1)
    size = values.groupby(["variant", "metric"])["size"].mean()  # equal up to rounding of floats of this size is equal
    for column, count in (("mean", "num_seeds"), ("difference", "num_pairs")):
        groups = values.groupby(["variant", "metric"])[column]
        n, mean, half = groups.count(), groups.mean(), groups.sem() * students_t.ppf(0.975, groups.count() - 1)
        summary[count], summary[column] = n.reindex(index, fill_value=0), mean.mask(mean.abs() <= 1e-8 * size, 0.0)
        summary[f"{column}_half"] = half.where(half > 1e-7 * size)
    summary.insert(1, "num_failed", failed.groupby(runs["variant"]).sum().reindex(index, level="variant"))
    metric, difference, half = index.get_level_values("metric"), summary["difference"], summary["difference_half"]
    better = (difference < 0) == metric.isin(LOWER_IS_BETTER)
    conditions = [half.isna() | metric.isin(NO_DIRECTION), difference.abs() <= half, better]
    summary["verdict"] = np.select(conditions, ["", "no difference shown", "better"], "worse")
    return summary


def format_summary(summary: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """A table to read: the mean of each variant, and its difference from the reference, ± half of the 95 % interval."""
    cells = {}
    for name in ("mean", "difference"):
        numbers, halves = summary[name].map("{:.3g}".format), summary[f"{name}_half"].map(" ± {:.2g}".format)
        cells[name] = numbers + halves.mask(summary[f"{name}_half"].isna(), "")
    return pd.DataFrame(cells).stack().unstack("metric", sort=False)[list(metrics)]
