"""Pictures of a comparison. Rows of the table in, Figure out; nothing trains here."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nitro_lab.canvas import PALETTE, panels
from nitro_lab.compare_table import Row

BETTER = {"FD": "lower", "KID": "lower", "repetition": "lower"}  # of all others, the higher
SHOWN = ("all", "texture", "FD", "recall")
CLEAR, UNCLEAR = PALETTE[0], "0.6"


def differences(rows: Sequence[Row], marks: Sequence[str] = SHOWN) -> Figure:
    """Paired differences from the reference with their 95 % intervals, a panel for each mark.

    An interval that does not reach 0 is drawn in blue and full, the others in grey and hollow.

    Raises:
        ValueError: if no row has one of the marks.
    """
    missing = [mark for mark in marks if not any(mark in row.differences for row in rows)]
    if missing:
        known = ", ".join(sorted({mark for row in rows for mark in row.differences})) or "none, since all failed"
        raise ValueError(f"No row has {', '.join(missing)}; the marks are {known}.")
    figure, axes = panels(1, len(marks), (2.2 + 2.6 * len(marks), 1.3 + 0.32 * len(rows)), sharey=True, squeeze=False)
    for axis, mark in zip(axes[0], marks, strict=True):
        draw_differences(axis, rows, mark)
    axes[0][0].set_yticks(range(len(rows)), [row.variant for row in rows])
    axes[0][0].invert_yaxis()
    return figure


def draw_differences(axis: Axes, rows: Sequence[Row], mark: str) -> None:
    """One mark: a dot and a bar for each variant that has it."""
    for place, row in enumerate(rows):
        part = row.differences.get(mark)
        if part is None or not part.n:
            word, where = "failed" if row.failed else "no pair", ("axes fraction", "data")
            axis.annotate(word, (0.03, place), xycoords=where, fontsize=8, va="center")
            continue
        half = 0.0 if np.isnan(part.half) else part.half
        clear = half > 0 and abs(part.mean) > half
        color = CLEAR if clear else UNCLEAR
        axis.errorbar(part.mean, place, xerr=half, fmt="o", color=color, mfc=color if clear else "white", capsize=3)
    axis.axvline(0, color="0.35", linestyle="--", lw=1)
    axis.set(title=f"{mark} ({BETTER.get(mark, 'higher')} is better)", xlabel="difference from the reference")
    axis.title.set_fontsize(9)
    axis.grid(alpha=0.3)
