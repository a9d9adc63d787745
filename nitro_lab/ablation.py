"""The paper's ablation as docs/ablation.csv holds it: read back, and said in sentences, however few rows there are.

The rows are made by `python benchmarks/ablation.py`, one for each finished run of a variant at a seed.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from matplotlib.figure import Figure

from nitro_lab import plots_compare
from nitro_lab.compare_run import Result
from nitro_lab.compare_table import Row, tabulate

REFERENCE = "full"
COMMAND = 'python benchmarks/ablation.py --only full "no refresh" --seeds 0 1 2 3 4'
NO_MARKS = {f.name for f in fields(Result)}  # all further columns of the table are marks
TOLD = ("all", "FD")


def read_ablation(table: Path, runs: Path) -> list[Result]:
    """The rows as results; those of the commonest length and exam, since others cannot be compared with them.

    Args:
        table: docs/ablation.csv; where there is none, there are no results.
        runs: the folder of all runs, where pictures may be.

    Raises:
        ValueError: if a row is damaged.
    """
    if not table.exists():
        return []
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        results = [result_of(row, runs) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{table} is damaged ({error}). Restore it, or delete it and run {COMMAND}.") from error
    kinds = Counter((result.steps, result.images) for result in results)
    return [result for result in results if (result.steps, result.images) == kinds.most_common(1)[0][0]]


def result_of(row: dict[str, str], runs: Path) -> Result:
    """One row."""
    return Result(
        variant=row["variant"],
        seed=int(row["seed"]),
        steps=int(row["steps"]),
        images=int(row["images"]),
        key=row["key"],
        seconds=float(row["seconds"]),
        parameters=int(row["parameters"]),
        memory=float(row["memory"]),
        margin=float(row["margin"]),
        failed=row["failed"],
        hardware=row["hardware"],
        commit=row["commit"],
        marks={name: float(value) for name, value in row.items() if name not in NO_MARKS and value},
        captions=[],
        grid=runs / row["key"] / "grid.png",
    )


def tabulate_ablation(results: Sequence[Result]) -> list[Row]:
    """A row for each variant, "full" first; none while "full" has no run, since all others are compared with it."""
    if not any(result.variant == REFERENCE for result in results):
        return []
    return tabulate(sorted(results, key=lambda result: result.variant != REFERENCE), REFERENCE)


def sentences(rows: Sequence[Row]) -> str:
    """What each variant's numbers show against the reference, one sentence each; and how to get more."""
    if not rows:
        return f"There are no runs of {REFERENCE!r} yet. In the project's folder, to make some:\n  {COMMAND}"
    lines = [f"{row.variant}: {sentence(row)}" for row in rows if row.variant != REFERENCE]
    return "\n".join(lines or [f"Only {REFERENCE!r} is there ({len(rows[0].seeds)} seeds). Others: {COMMAND}"])


def sentence(row: Row) -> str:
    """Whether the paired differences show anything."""
    if row.failed and not row.seeds:
        return f"ended early at every seed ({len(row.failed)}): a number was none."
    return "; ".join(verdict(row, mark) for mark in TOLD if mark in row.differences) + "."


def verdict(row: Row, mark: str) -> str:
    """One mark: better, worse, or no difference shown."""
    change = row.differences[mark]
    told = f"{mark} {change} of {change.n} seed{'s' if change.n > 1 else ''}"
    if change.n < 2:
        return f"{told}, too few for an interval"
    if not abs(change.mean) > change.half:
        return f"{told}, no difference shown"
    lower_is_better = plots_compare.BETTER.get(mark) == "lower"
    return f"{told}, {'better' if (change.mean < 0) == lower_is_better else 'worse'} than {REFERENCE!r}"


def figure_of(rows: Sequence[Row]) -> Figure | None:
    """All differences with their intervals; None while there is nothing to compare."""
    marks = [mark for mark in plots_compare.SHOWN if any(mark in row.differences for row in rows)]
    return plots_compare.differences(rows, marks) if len(rows) > 1 and marks else None
