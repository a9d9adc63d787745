"""Recorded comparisons: any variants and seeds are summarized; what is not finished is left out."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest

from nitro_lab.experiments.summary import summarize
from workbook.figures.memorization import memorization_curves
from workbook.recorded import read_recorded, recorded_differences, recorded_means

METRICS = ["told_apart", "all", "FD", "beauty"]


def runs(variant: str, values: list[float], **other) -> pd.DataFrame:
    """A row for each seed, as benchmarks/study.py writes them."""
    columns = {"variant": variant, "seed": range(len(values)), "steps": 160, "num_images": 512, "settings": "s"}
    columns |= {"seconds": 0.5, "num_parameters": 100, "logit_gap": 0.1, "failed": "", "reference": "pool"}
    metrics = {"told_apart": values, "all": [1 - value for value in values], "FD": 1.0}
    return pd.DataFrame(columns | metrics | other)


@pytest.fixture
def table(tmp_path):
    def write(*parts: pd.DataFrame):
        pd.concat(parts).to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return write


POOL, SCATTERED = runs("pool", [0.7, 0.8, 0.9]), runs("scattered", [0.9, 0.6, 0.85])
WORSE, ONE_SEED = runs("worse $x$", [0.75, 0.86, 0.95]), runs("one seed", [0.5])
FAILED = runs("failed", [0.0], told_apart=None, all=None, FD=None, failed="Step 3: NaN")


def test_means_are_sorted_by_the_first_metric_and_counted(table, capsys):
    rows = read_recorded(table(WORSE, ONE_SEED, POOL, SCATTERED, FAILED), "make it")
    assert "5 variants at 1 to 3 seed(s), 160 steps, 512 images. The reference is pool." in capsys.readouterr().out
    means = recorded_means(rows, METRICS)
    assert list(means.index) == ["one seed", "scattered", "pool", "worse $x$", "failed"]
    assert list(means.columns) == ["seeds", "failed", "told_apart", "all", "FD"]
    assert means["seeds"].tolist() == [1, 3, 3, 3, 0]
    assert means["failed"].tolist() == [0, 0, 0, 0, 1]
    assert means.loc["one seed", "told_apart"] == "0.5"
    assert means.loc["pool", "told_apart"] == "0.8 ± 0.25"
    assert set(means.loc[means["seeds"] > 0, "FD"]) == {"1"}  # all seeds agree: no "± 0"


def test_differences_from_the_reference_are_drawn(table):
    figure = recorded_differences(read_recorded(table(WORSE, POOL, SCATTERED, ONE_SEED, FAILED), ""), METRICS)
    figure.canvas.draw()
    axis = figure.axes[0]
    points = [line for line in axis.lines if line.get_marker() == "o"]
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["pool", r"worse \$x\$", "scattered", "one seed", "failed"]
    filled = {names[int(point.get_ydata()[0])] for point in points if point.get_markerfacecolor() != "white"}
    assert filled == {r"worse \$x\$"}
    assert len(figure.axes) == 3


def test_rows_that_cannot_be_compared_are_left_out(table, capsys):
    older = runs("pool", [0.1, 0.2], steps=20)
    again = runs("pool", [0.3, 0.3, 0.3])
    rows = read_recorded(table(older, POOL, again, WORSE), "")
    assert rows.loc[rows["variant"] == "pool", "told_apart"].tolist() == [0.3] * 3
    assert "2 variants at 3 seed(s)" in capsys.readouterr().out


def test_the_reference_is_the_first_variant_where_that_of_the_comparison_was_not_run(table, capsys):
    read_recorded(table(WORSE, ONE_SEED), "")
    assert "The reference is worse" in capsys.readouterr().out


def test_without_a_table_the_command_is_printed(tmp_path, capsys):
    rows = read_recorded(tmp_path / "no.csv", "python benchmarks/leaderboard.py")
    assert "python benchmarks/leaderboard.py" in capsys.readouterr().out
    assert recorded_means(rows, METRICS) is None
    assert recorded_differences(rows, METRICS) is None


def test_curves_of_memorization_have_finished_runs_only():
    steps = [50, 100]

    def run(variant: str, seed: int, last: int = 100) -> pd.DataFrame:
        rows = pd.DataFrame({"step": steps, "memorization": [0.1, 0.2 + 0.1 * seed], "FD": [None, 1.0 + seed]})
        return rows[rows["step"] <= last].assign(variant=variant, seed=seed, all=rows["FD"] / 10)

    parts = [run("no refresh", 0), run("no refresh", 1), run("no refresh", 2, last=50), run("refresh 1.0%", 0)]
    figure = memorization_curves(pd.concat(parts))
    figure.canvas.draw()
    for axis, means in zip(figure.axes, ([0.1, 0.25], [1.5], [0.15]), strict=True):
        (line,) = axis.lines
        assert line.get_label() == "no refresh (2 seeds)"
        assert line.get_ydata().tolist() == pytest.approx(means)
    assert not memorization_curves(pd.concat(parts[:1])).axes[0].lines


def test_what_notebook_05_says_of_refresh_is_what_the_table_shows():
    root = Path(__file__).parents[1]
    rows = pd.read_csv(root / "docs" / "memorization.csv")
    means = rows.groupby(["variant", "step"])[["memorization", "FD", "all"]].mean()
    without, refreshed = means.loc["no refresh"], means.loc["refresh 1.0%"]
    last = rows[rows["step"] == 600].rename(columns={"step": "steps"}).assign(num_images=256, failed="")
    paired = summarize(last, reference="no refresh").loc["refresh 1.0%"]
    sentences = [
        f"from {without.at[50, 'memorization']:.2f} at step 50 to {without.at[600, 'memorization']:.2f} at step 600",
        f"between {refreshed['memorization'].min():.2f} and {refreshed['memorization'].max():.2f}",
        f"step {without['FD'].idxmin()} without refresh ({without['FD'].min():.2f})",
        f"step {refreshed['FD'].idxmin()} with it ({refreshed['FD'].min():.2f})",
        f"{without.at[600, 'FD']:.2f} without refresh and {refreshed.at[600, 'FD']:.2f} with it",
        f"−{-paired.at['FD', 'difference']:.2f} ± {paired.at['FD', 'difference_half']:.2f} over five seeds",
        f"(+{paired.at['all', 'difference']:.3f} ± {paired.at['all', 'difference_half']:.3f})",
    ]
    notebook = nbformat.read(root / "notebooks" / "05_discriminator_workbench.ipynb", as_version=4)
    prose = "".join(cell.source for cell in notebook.cells)
    assert [sentence for sentence in sentences if sentence not in prose] == []
