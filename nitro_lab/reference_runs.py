"""Recorded runs to compare one's own with: their CSV files, and what their last quarter says in numbers."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nitro_lab.plots_training import KNOW_NOTHING

ORDER = ("healthy", "too-strong", "learned-nothing", "no-refresh", "refresh-too-often")
Columns = Mapping[str, np.ndarray]


def read_runs(folder: Path) -> dict[str, Columns]:
    """Every CSV of a folder, by name, in the order of `ORDER` and then of the alphabet. Empty if there is none.

    Raises:
        ValueError: if a file is no table of numbers with a header.
    """
    files = sorted(folder.glob("*.csv"), key=lambda file: (*(file.stem != name for name in ORDER), file.stem))
    return {file.stem: read_table(file) for file in files}


def read_table(file: Path) -> Columns:
    """Columns of one CSV; an empty field is nan."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    if not rows:
        raise ValueError(f"{file} holds no rows; a run's reports.csv has a header and a row a step.")
    try:
        return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} is no table of numbers ({error}); a run's reports.csv is.") from error


def last_quarter(values: np.ndarray) -> float:
    """Mean of the finite values in the last quarter of a column."""
    late = values[-max(1, len(values) // 4) :]
    return float(late[np.isfinite(late)].mean()) if np.isfinite(late).any() else float("nan")


def share_of_blind_loss(columns: Columns, objective: str) -> float | None:
    """The critics' loss at the end, over that of critics who know nothing; None where that is 0 (linear)."""
    height, _ = KNOW_NOTHING[objective]
    return last_quarter(columns["critic_loss"]) / height if height else None


def late_margin(columns: Columns) -> tuple[float, float]:
    """Mean margin of the last quarter, and its standard error over the steps (nan for a single step)."""
    late = columns["margin"][-max(1, len(columns["margin"]) // 4) :]
    error = late.std(ddof=1) / len(late) ** 0.5 if len(late) > 1 else float("nan")
    return float(late.mean()), float(error)


def reading(columns: Columns, objective: str) -> str:
    """What the last quarter of a run shows: numbers, and what they mean."""
    (margin, error), share = late_margin(columns), share_of_blind_loss(columns, objective)
    loss = f"critic loss {last_quarter(columns['critic_loss']):.2f}"
    if share is not None:
        loss += f" ({share:.0%} of knowing nothing)"
    norm = last_quarter(columns["gradient_norm"])
    return f"{loss}, margin {margin:+.3f} ± {error:.3f}, gradient {norm:.3g}\n{verdict(margin, error, share)}"


def verdict(margin: float, error: float, share: float | None) -> str:
    """Words for a margin with its standard error, and a critics' loss as a share of that of knowing nothing."""
    if not abs(margin) > 2 * error:
        return "no margin beyond chance: the critics tell nothing apart"
    if margin < 0:
        return "the margin is negative: the critics have it the wrong way round"
    if share is not None and share < 0.1:
        return "the critics are almost never wrong"
    return "the margin is positive: the critics tell some of it apart"
