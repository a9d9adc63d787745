"""Tables and figures of a comparison: intervals against scipy's, pairs by seed, failures, curves."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy import stats

from nitro_lab.experiments.compare import Result
from nitro_lab.experiments.summary import format_summary, summarize, to_frame
from workbook.figures.compare import paired_differences, report_curves

FULL, MINE = (0.71, 0.60, 0.82, 0.55), (0.75, 0.66, 0.85, 0.62)


def result(variant: str, seed: int, value: float, **other) -> Result:
    fields = {"metrics": {"all": value, "FD": 10 * value}, "seconds": 0.5, "num_parameters": 100, "memory": 50.0 + seed}
    fields |= {"settings": "s"}
    fields |= {"logit_gap": 0.1, "captions": ["a", "b"], "steps": 9, "num_images": 12, "key": "k", "grid": Path("no")}
    return Result(variant=variant, seed=seed, **fields | other)


def results() -> list[Result]:
    mine = [result("mine", seed, value) for seed, value in enumerate(MINE)]
    return [result("full", seed, value) for seed, value in enumerate(FULL)] + mine[::-1]


FAILED = result("bad", 0, 0, metrics={}, failed="Step 3: disc_loss nan")


def test_intervals_are_those_of_scipy():
    summary = summarize(results())
    row = summary.loc[("mine", "all")]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(MINE), scale=stats.sem(MINE))
    assert (row["mean"] - row["mean_half"], row["mean"] + row["mean_half"]) == pytest.approx((low, high))
    paired = stats.ttest_rel(MINE, FULL).confidence_interval(0.95)
    low, high = row["difference"] - row["difference_half"], row["difference"] + row["difference_half"]
    assert (low, high) == pytest.approx((paired.low, paired.high))
    assert row["difference_half"] < row["mean_half"] / 3  # what a seed does to both variants cancels
    assert (row["num_seeds"], row["num_pairs"], row["num_failed"]) == (4, 4, 0)


def test_a_table_gives_what_results_give_and_the_reference_can_be_chosen(tmp_path):
    expected = summarize([*results(), FAILED])
    to_frame([*results(), FAILED]).to_csv(tmp_path / "runs.csv", index=False)
    pd.testing.assert_frame_equal(summarize(pd.read_csv(tmp_path / "runs.csv")), expected)
    other = summarize(results(), reference="mine")
    assert other.loc[("full", "all"), "difference"] == pytest.approx(-expected.loc[("mine", "all"), "difference"])
    assert (other.loc["mine", "difference"] == 0).all()


def test_verdicts_know_which_direction_is_better():
    scattered = [result("other", seed, value) for seed, value in enumerate((0.5, 0.9, 0.7, 0.8))]
    verdicts = summarize([*results(), *scattered])["verdict"]
    assert (verdicts["mine", "all"], verdicts["mine", "FD"]) == ("better", "worse")  # both are higher
    assert verdicts["other", "all"] == "no difference shown"


@pytest.mark.parametrize("difference", [0.0, 0.1])
@pytest.mark.parametrize("rounding", [0.0, 1e-9])
@pytest.mark.parametrize("num_seeds", [2, 4])
def test_seeds_that_agree_up_to_rounding_show_nothing(difference, rounding, num_seeds):
    values = [value * (1 + rounding * (seed + 1)) + difference for seed, value in enumerate(FULL[:num_seeds])]
    agreeing = [result("twin", seed, value) for seed, value in enumerate(values)]
    summary = summarize([*results(), *agreeing])
    row = summary.loc[("twin", "all")]
    assert row["difference"] == (pytest.approx(difference) if difference else 0)
    assert math.isnan(row["difference_half"])
    assert row["verdict"] == ""
    assert "±" not in format_summary(summary, ["all"]).loc[("twin", "difference"), "all"]
    (axis,) = paired_differences(summary, ("all",)).axes
    *_, twin = [line for line in axis.lines if line.get_marker() == "o"]
    assert (twin.get_color(), twin.get_markerfacecolor()) == ("0.6", "white")  # not shown
    assert len(axis.collections) == 1  # the bar of "mine"; "full" and "twin" have none


def test_only_seeds_that_both_finished_are_paired():
    failed = result("mine", 0, 0, metrics={}, failed="nan")
    runs = [*results()[:2], result("mine", 1, 0.9), result("mine", 7, 0.1), failed, FAILED]
    row = summarize(runs).loc[("mine", "all")]
    assert (row["num_seeds"], row["num_failed"], row["mean"]) == (2, 1, pytest.approx(0.5))
    assert (row["num_pairs"], row["difference"], row["verdict"]) == (1, pytest.approx(0.3), "")
    row = summarize(runs).loc[("bad", "all")]  # it always failed
    assert (row["num_seeds"], row["num_failed"], row["num_pairs"]) == (0, 1, 0)
    assert math.isnan(row["mean"])


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (lambda: summarize([]), "results"),
        (lambda: summarize(results(), reference="other"), "'other'.*full.*mine"),
        (lambda: summarize([*results(), result("long", 0, 1.0, steps=10)]), r"\[9, 12\].*\[10, 12\]"),
        (lambda: paired_differences(summarize(results()), ("beauty",)), r"beauty.*FD"),
        (lambda: report_curves({"full": []}), "full"),
    ],
)
def test_what_cannot_be_summarized_or_drawn(refused, named):
    with pytest.raises(ValueError, match=named):
        refused()


def test_curves_are_running_means_over_seeds_with_their_range():
    seeds = ({"step": [1, 2, 3, 4], "logit_gap": [0, 2, 4, 6]}, {"step": [1, 2, 3], "logit_gap": [1, 3, 5]})
    reports = [pd.DataFrame(seed) for seed in seeds]
    (axis,) = report_curves({"full": reports[:1], "mine": reports}, ("logit_gap",), window=2).axes
    full, mine = axis.lines
    assert full.get_ydata().tolist() == [0, 1, 3, 5]
    assert (mine.get_xdata().tolist(), mine.get_ydata().tolist()) == ([1, 2, 3], [0.5, 1.5, 3.5])
    (band,) = axis.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(1, 0), (1, 1), (3, 3), (3, 4)}


def test_dollar_signs_in_names_of_variants_are_shown_as_they_are():
    name = r"$a_b^c_d$ {"
    runs = [replace(one, variant=name) if one.variant == "mine" else one for one in results()]
    reports = [pd.DataFrame({"step": [1, 2], "logit_gap": [0, 2]})]
    for figure in (paired_differences(summarize(runs), ("all",)), report_curves({name: reports}, ("logit_gap",))):
        figure.canvas.draw()
        shown = [text.get_text() for text in figure.findobj(Text)]
        assert any(r"\$a_b^c_d\$ {" in text for text in shown)
