"""Results of a comparison as numbers that can be judged: means over seeds, paired differences, 95 % intervals.

Variants share data and noise at each seed, so the difference from the reference is taken seed by seed: what seeds do
to both cancels. Intervals are Student's t, which supposes that seeds scatter about normally.
"""

import csv
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, stdev

from scipy.stats import t as students_t

from nitro_lab.compare.run import Result
from nitro_lab.plots.page import picture, table, write_html
from nitro_lab.snapshots import replace_file

CONFIDENCE = 0.95
SHOWN = ("all", "texture", "FD", "KID", "recall", "coverage", "sharpness")


@dataclass(frozen=True)
class Estimate:
    """A mean over n seeds and the half of its 95 % interval; that is nan for one seed, and both for none."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        if not self.n:
            return "–"
        mean = round(self.mean, 12) + 0.0  # differences that are rounding alone are 0, and not −0
        return f"{mean:.3g}" + ("" if math.isnan(self.half) else f" ± {self.half:.2g}")


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t-interval of independent values."""
    n = len(values)
    if n < 2:
        return Estimate(values[0] if values else math.nan, math.nan, n)
    quantile = students_t.ppf((1 + CONFIDENCE) / 2, n - 1)
    return Estimate(fmean(values), float(quantile) * stdev(values) / math.sqrt(n), n)


@dataclass(frozen=True)
class Row:
    """A variant: marks and, against the reference, differences at the same seeds; what it costs; one grid.

    failed: seeds at which it ended early; they are in no mean.
    """

    variant: str
    seeds: list[int]
    failed: list[int]
    marks: dict[str, Estimate]
    differences: dict[str, Estimate]
    margin: Estimate
    steps_a_second: float
    parameters: int
    memory: float
    grid: Path


def tabulate(results: Iterable[Result], reference: str | None = None) -> list[Row]:
    """A row for each variant, in the order in which they first appear.

    Args:
        reference: the variant that the others are compared with, by default the first.

    Raises:
        ValueError: if there is no result, or none of the reference, or runs of other lengths or exams are among them.
    """
    by_variant: dict[str, dict[int, Result]] = {}
    for result in results:
        by_variant.setdefault(result.variant, {})[result.seed] = result
    if not by_variant:
        raise ValueError("There are no results yet; run compare first.")
    reference = reference or next(iter(by_variant))
    if reference not in by_variant:
        raise ValueError(f"reference is {reference!r}; it must be one of {', '.join(map(repr, by_variant))}.")
    kinds = {(r.steps, r.images) for runs in by_variant.values() for r in runs.values()}
    if len(kinds) > 1:
        raise ValueError(f"Results of (steps, images) {sorted(kinds)} cannot be compared; tabulate one kind at a time.")
    return [make_row(name, runs, by_variant[reference]) for name, runs in by_variant.items()]


def make_row(variant: str, runs: dict[int, Result], reference: dict[int, Result]) -> Row:
    """Means of one variant, and its differences from the reference at the seeds that both finished."""
    good = {seed: run for seed, run in sorted(runs.items()) if not run.failed}
    names = list(next(iter(good.values())).marks) if good else []
    pairs = [(run.marks, reference[seed].marks) for seed, run in good.items() if seed in reference]
    pairs = [(own, other) for own, other in pairs if other]
    first = next(iter((good or runs).values()))
    return Row(
        variant=variant,
        seeds=list(good),
        failed=sorted(runs.keys() - good),
        marks={name: estimate([run.marks[name] for run in good.values()]) for name in names},
        differences={name: estimate([own[name] - other[name] for own, other in pairs]) for name in names},
        margin=estimate([run.margin for run in good.values()]),
        steps_a_second=1 / fmean(run.seconds for run in (good or runs).values()),
        parameters=first.parameters,
        memory=max(run.memory for run in runs.values()),
        grid=first.grid,
    )


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """A line for each variant: every mark's mean, half interval, difference and its half interval; the costs."""
    names = list(dict.fromkeys(name for row in rows for name in row.marks))
    costs = ("steps_a_second", "parameters", "memory")
    columns = [f"{name}{part}" for name in names for part in ("", " ±", " difference", " difference ±")]

    def write(file: Path) -> None:
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened, lineterminator="\n")
            writer.writerow(["variant", "seeds", "failed", *columns, *costs])
            for row in rows:
                pairs = [(row.marks.get(name), row.differences.get(name)) for name in names]
                numbers = [x for pair in pairs for part in pair for x in ((part.mean, part.half) if part else ("", ""))]
                told = [row.variant, len(row.seeds), len(row.failed), *numbers, *(getattr(row, c) for c in costs)]
                writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in told])

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, write)


def write_page(rows: Sequence[Row], path: Path, captions: Sequence[str], marks: Sequence[str] = SHOWN) -> None:
    """One file that needs no other: the table, and the grid of each variant beneath, of the same captions and noise.

    Args:
        captions: of the grids' pictures, as in `Result.captions`.
        marks: columns.
    """
    reference = next((row.variant for row in rows if is_reference(row)), rows[0].variant)
    head = ["variant", "seeds", *marks, "steps / s", "parameters", "MiB"]
    body = BODY.format(
        reference=html.escape(reference),
        table=table(head, [told(row, marks) for row in rows]),
        grids="".join(figure_of(row) for row in rows),
        captions=html.escape(" · ".join(captions)),
    )
    write_html("Comparison of critics", body, path)


def is_reference(row: Row) -> bool:
    """Its differences from itself are all nothing."""
    return bool(row.differences) and all(part.mean == 0 and not part.half for part in row.differences.values())


def told(row: Row, marks: Sequence[str]) -> list[str]:
    """A row in words; in each cell of a mark the mean, and under it the difference."""
    seeds = f"{len(row.seeds)}" + (f" ({len(row.failed)} failed)" if row.failed else "")
    pairs = [f"{row.marks[m]}\nΔ {row.differences[m]}" if m in row.marks else "–" for m in marks]
    return [row.variant, seeds, *pairs, f"{row.steps_a_second:.2f}", f"{row.parameters:,}", f"{row.memory:.0f}"]


def print_rows(rows: Sequence[Row], marks: Sequence[str] = SHOWN) -> None:
    """The table as text: mean ± half of its 95 % interval, and under it the paired difference (Δ)."""
    table = [["", "seeds", *marks, "steps / s", "numbers", "MiB"], *(told(row, marks) for row in rows)]
    lines = [line for row in table for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())


def figure_of(row: Row) -> str:
    """The grid, inside the page."""
    if not row.grid.is_file():
        return f"<figure><figcaption>{html.escape(row.variant)}: no pictures</figcaption></figure>"
    return picture(row.grid.read_bytes(), row.variant)


BODY = """<p>Mean over seeds ± half of the 95 % interval (Student's t); Δ: paired difference from “{reference}” at the
same seeds. An interval of Δ that holds 0 shows no difference. MiB: peak memory in training.</p>
{table}
<h2>The same noise and captions</h2>
{grids}
<p>{captions}</p>"""
