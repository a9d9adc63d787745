"""What the bench found as one page that needs no other file."""

import html
from pathlib import Path

from nitro_lab.bench.measure import Findings, told_goal, told_split
from nitro_lab.bench.pictures import step_parts
from nitro_lab.bench.ratio import Ratio
from nitro_lab.plots.canvas import png
from nitro_lab.plots.page import picture, table, write_html

HEAD = ("comparison", "on", "ratio", "goal", "ours", "theirs")


def write_page(findings: Findings, path: Path) -> None:
    """All ratios with their goals, and the parts of a step in words and as bars."""
    machines = "; ".join(f"{device}: {name}" for device, name in findings.hardware.items())
    body = BODY.format(
        made=html.escape(f"{machines}; torch {findings.torch}; commit {findings.commit}"),
        table=table(HEAD, [told_row(row) for row in findings.ratios]),
        parts="".join(f"<li>{html.escape(told_split(split))}</li>\n" for split in findings.splits),
        bars=picture(
            png(step_parts(findings.splits)), "Milliseconds of each part; a triangle: the step's end at its goal"
        ),
    )
    write_html("What the critics cost", body, path)


def told_row(row: Ratio) -> list[str]:
    """A comparison in words."""
    seconds = [f"{1e3 * value:.1f} ms" for value in (row.our_seconds, row.their_seconds)]
    return [f"{row.name}\n{row.ours}\nover {row.theirs}", row.device, f"{row.ratio:.3f}", told_goal(row), *seconds]


BODY = """<p>{made}</p>
<p>Each ratio is our time over theirs: medians of calls in turn, within one run. Below 1, ours is faster.</p>
{table}
<h2>The parts of a step</h2>
<p>In milliseconds, each timed by itself on the same tensors. What is left over is checks, the report and chance; it may
be less than nothing, since medians of parts do not add up to the median of steps.</p>
<ul>
{parts}</ul>
{bars}"""
