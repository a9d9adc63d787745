"""The paper's ablation, a row of docs/ablation.csv for each run: written, read back, and said in sentences.

The runs are made by `python benchmarks/ablation.py`; however few there are, this says what they show.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from matplotlib.figure import Figure

from nitro_lab.compare.pictures import BETTER, SHOWN, differences
from nitro_lab.compare.run import Result
from nitro_lab.compare.table import Row, tabulate
from nitro_lab.mini.world import FACTORS

REFERENCE = "full"
COMMAND = 'python benchmarks/ablation.py --only full "no refresh" --seeds 0 1 2 3 4'
MARKS = (*FACTORS, "all", "repetition", "FD", "KID", "precision", "recall", "density", "coverage", "sharpness")
COUNTS, NUMBERS = ("seed", "steps", "images", "parameters"), ("seconds", "memory", "margin")
WORDS = ("variant", "key", "failed", "hardware", "commit")
COLUMNS = ("variant", "seed", "steps", "images", "key", "seconds", "parameters", "memory", "margin", *MARKS, *WORDS[2:])
TOLD = ("all", "FD")


def append_result(result: Result, table: Path) -> None:
    """Add a row, unless it is there; one process at a time.

    Raises:
        ValueError: if the table is damaged.
    """
    numbers = {name: getattr(result, name) for name in COLUMNS if hasattr(result, name)} | result.marks
    row = {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in numbers.items()}
    with FileLock(table.with_suffix(".lock")):
        there = read_results(table)
        if (result.variant, result.key) in {(known.variant, known.key) for known in there}:
            return
        with table.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)


def read_results(table: Path) -> list[Result]:
    """All rows; none where there is no table. They have no captions, and no grids.

    Raises:
        ValueError: if a row is damaged.
    """
    if not table.exists():
        return []
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return [result_of(row) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{table} is damaged ({error}). Restore it, or delete it and run {COMMAND}.") from error


def result_of(row: dict[str, str]) -> Result:
    """One row."""
    told: dict[str, Any] = {name: row[name] for name in WORDS}
    told |= {name: int(row[name]) for name in COUNTS} | {name: float(row[name]) for name in NUMBERS}
    marks = {name: float(row[name]) for name in MARKS if row[name]}
    return Result(**told, marks=marks, captions=[], grid=Path())


def tabulate_ablation(results: Sequence[Result]) -> list[Row]:
    """A row for each variant, "full" first; none while "full" has no run, since all others are compared with it.

    Runs of the commonest length and exam count, for others cannot be compared with them.
    """
    kinds = Counter((result.steps, result.images) for result in results)
    alike = [result for result in results if (result.steps, result.images) == kinds.most_common(1)[0][0]]
    if not any(result.variant == REFERENCE for result in alike):
        return []
    return tabulate(sorted(alike, key=lambda result: result.variant != REFERENCE), REFERENCE)


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
    lower_is_better = BETTER.get(mark) == "lower"
    return f"{told}, {'better' if (change.mean < 0) == lower_is_better else 'worse'} than {REFERENCE!r}"


def figure_of(rows: Sequence[Row]) -> Figure | None:
    """All differences that have an interval, of two seeds or more; None while there is nothing to compare."""
    shown = [row for row in rows if row.variant == REFERENCE or len(row.seeds) > 1]
    marks = [mark for mark in SHOWN if any(mark in row.differences for row in shown)]
    return differences(shown, marks) if len(shown) > 1 and marks else None
