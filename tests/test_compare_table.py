"""The table and its picture: intervals against scipy's, pairs by seed, failures, and a page that stands alone."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from nitro_lab.compare.pictures import curves, differences
from nitro_lab.compare.run import Result
from nitro_lab.compare.table import estimate, tabulate, write_csv, write_page

FULL, MINE = (0.71, 0.60, 0.82, 0.55), (0.75, 0.66, 0.85, 0.62)


def result(variant: str, seed: int, value: float, grid: Path = Path("nothing.png"), **other) -> Result:
    told = {"marks": {"all": value, "FD": 10 * value}, "seconds": 0.5, "parameters": 100 + seed, "memory": 50.0 + seed}
    told |= {"margin": 0.1, "hardware": "", "commit": "", "captions": ["a star"], "steps": 9, "images": 12, "key": "k"}
    return Result(variant=variant, seed=seed, grid=grid, **(told | other))


def results(grid: Path = Path("nothing.png")) -> list[Result]:
    mine = [result("mine <b>", seed, value, grid) for seed, value in enumerate(MINE)]
    return [result("full", seed, value, grid) for seed, value in enumerate(FULL)] + mine[::-1]


def test_an_interval_is_scipy_s():
    low, high = stats.t.interval(0.95, 3, loc=np.mean(FULL), scale=stats.sem(FULL))
    found = estimate(FULL)
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_few_seeds_say_what_they_can():
    one, none = estimate([0.5]), estimate([])
    assert (one.mean, one.n, str(one)) == (0.5, 1, "0.5")
    assert math.isnan(one.half)
    assert (none.n, str(none)) == (0, "–")


def test_differences_are_paired_by_seed():
    full, mine = tabulate(results())
    test = stats.ttest_rel(MINE, FULL).confidence_interval(0.95)
    part = mine.differences["all"]
    assert (part.mean - part.half, part.mean + part.half) == pytest.approx((test.low, test.high))
    assert part.half < mine.marks["all"].half / 3  # seeds move both alike
    assert full.differences["all"].mean == full.differences["all"].half == 0
    assert (mine.steps_a_second, mine.memory, mine.seeds) == (2.0, 53.0, [0, 1, 2, 3])
    assert tabulate(results(), reference="mine <b>")[0].differences["all"].mean == pytest.approx(-part.mean)


def test_only_seeds_that_both_finished_are_paired():
    some = [
        *results()[:2],
        result("mine", 1, 0.9),
        result("mine", 7, 0.1),
        result("mine", 0, 0, marks={}, failed="nan"),
    ]
    row = tabulate(some)[1]
    assert (row.seeds, row.failed) == ([1, 7], [0])
    assert row.marks["all"].mean == pytest.approx(0.5)
    assert (row.differences["all"].n, row.differences["all"].mean) == (1, pytest.approx(0.3))


def test_a_variant_that_always_failed_has_a_row():
    row = tabulate([*results(), result("bad", 0, 0, marks={}, failed="nan")])[2]
    assert (row.variant, row.marks, row.failed) == ("bad", {}, [0])


@pytest.mark.parametrize(
    ("given", "options", "named"),
    [
        ([], {}, "no results yet; run compare first"),
        (results(), {"reference": "other"}, "reference is 'other'; it must be one of 'full', 'mine <b>'"),
        ([*results(), result("long", 0, 1.0, steps=10)], {}, r"\(steps, images\) \[\(9, 12\), \(10, 12\)\]"),
    ],
)
def test_what_cannot_be_tabulated(given, options, named):
    with pytest.raises(ValueError, match=named):
        tabulate(given, **options)


def test_csv_holds_the_numbers(tmp_path):
    rows = tabulate([*results(), result("bad", 0, 0, marks={}, failed="nan")])
    write_csv(rows, tmp_path / "new" / "table.csv")
    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        full, mine, bad = csv.DictReader(file)
    assert float(mine["all"]) == pytest.approx(np.mean(MINE))
    assert float(mine["FD difference ±"]) == pytest.approx(rows[1].differences["FD"].half, rel=1e-4)
    assert (full["seeds"], full["all difference"], bad["all"], bad["failed"]) == ("4", "0", "", "1")


def test_the_page_stands_alone(tmp_path):
    Image.new("RGB", (8, 2), (1, 2, 3)).save(tmp_path / "grid.png")
    rows = tabulate([*results(tmp_path / "grid.png"), result("bad", 0, 0, marks={}, failed="nan")])
    write_page(rows, tmp_path / "page.html", ["a star & a ring"], marks=("all", "FD"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert str(tmp_path) not in page
    assert "mine &lt;b&gt;" in page
    assert "a star &amp; a ring" in page
    assert "from “full”" in page
    assert f"{np.mean(MINE):.3g} ± " in page
    assert "bad: no pictures" in page


def test_the_plot_shows_each_difference_and_which_are_clear():
    rows = tabulate([*results(), result("bad", 0, 0, marks={}, failed="nan")])
    figure = differences(rows, ("all", "FD"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["full", "mine <b>", "bad"]
    for axis, mark in zip(figure.axes, ("all", "FD"), strict=True):
        full, mine = axis.containers
        assert mine.lines[0].get_xdata()[0] == pytest.approx(rows[1].differences[mark].mean)
        (bar,) = mine.lines[2][0].get_segments()
        assert bar[1, 0] - bar[0, 0] == pytest.approx(2 * rows[1].differences[mark].half)
        assert (full.lines[0].get_markerfacecolor(), mine.lines[0].get_markerfacecolor()) == ("white", "#0072B2")
        assert [note.get_text() for note in axis.texts] == ["failed"]
    assert figure.axes[1].get_title() == "FD (lower is better)"


def test_a_mark_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match="No row has beauty; the marks are FD, all"):
        differences(tabulate(results()), ("beauty",))


def test_curves_are_running_means_over_seeds_with_their_range():
    steps = [1, 2, 3, 4]
    seeds = [
        {"step": steps, "margin": [0.0, 2.0, 4.0, 6.0], "student_loss": [math.nan, 1.0, math.nan, 3.0]},
        {"step": steps[:3], "margin": [1.0, 3.0, 5.0], "student_loss": [math.nan, 2.0, math.nan]},
    ]
    figure = curves({"full": seeds[:1], "mine": seeds}, ("margin", "student_loss"), memory=2)
    margins, losses = figure.axes
    full, mine = margins.lines
    assert full.get_ydata().tolist() == [0, 1, 3, 5]
    assert mine.get_xdata().tolist() == [1, 2, 3]
    assert mine.get_ydata().tolist() == [0.5, 1.5, 3.5]
    (band,) = margins.collections
    assert {tuple(point) for point in band.get_paths()[0].vertices} >= {(1, 0), (1, 1), (3, 3), (3, 4)}
    assert (losses.lines[0].get_xdata().tolist(), losses.lines[0].get_ydata().tolist()) == ([2, 4], [1, 2])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["full", "mine"]
    many = curves({str(n): seeds for n in range(20)}, ("margin",))
    looks = {(line.get_color(), line.get_linestyle()) for line in many.axes[0].lines}
    assert len(looks) == 20


def test_curves_of_nothing_are_refused():
    with pytest.raises(ValueError, match="Each variant needs the reports of one seed or more"):
        curves({"full": []})
