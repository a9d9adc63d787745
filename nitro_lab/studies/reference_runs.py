"""Recorded runs to compare one's own with: what was done to each, its reports, and what their last quarter says."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nitro_lab.objectives import OBJECTIVES

Columns = Mapping[str, np.ndarray]
RUNS = {  # what differs from the settings of `healthy`, and why one should know such curves
    "healthy": ({}, "the defaults"),
    "too-strong": (
        {"student_every": 20, "refresh": 0.0},
        "twenty steps of the critics for one of the student, nobody thrown out",
    ),
    "learned-nothing": (
        {"critic_rate": 1e-7, "objective": "non-saturating"},
        "the critics' learning rate is next to nothing: at 2·ln 2, each side is right half of the time",
    ),
    "no-refresh": ({"refresh": 0.0}, "nobody is thrown out"),
    "refresh-too-often": ({"refresh": 0.05}, "one in twenty of all heads is thrown out after each step"),
}


@dataclass(frozen=True)
class Run:
    """The columns of a run's reports.csv, its objective, and what was done to it."""

    columns: Columns
    objective: str
    words: str = ""


def read_runs(folder: Path) -> dict[str, Run]:
    """Every CSV of a folder, by name, with the settings (JSON) beside it; in the order of `RUNS`, then by name.

    Raises:
        ValueError: if a file is no table of numbers with a header, or has no settings.
    """
    order = list(RUNS)
    files = sorted(folder.glob("*.csv"), key=lambda file: (*(file.stem != name for name in order), file.stem))
    return {file.stem: read_run(file) for file in files}


def read_run(file: Path) -> Run:
    """One CSV and its settings."""
    settings = file.with_suffix(".json")
    if not settings.exists():
        raise ValueError(f"{file} has no {settings.name} beside it; copy the run's config.json there.")
    return Run(read_table(file), json.loads(settings.read_text())["objective"], RUNS.get(file.stem, ({}, ""))[1])


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


def share_of_blind_loss(run: Run) -> float | None:
    """The critics' loss at the end, over that of critics who know nothing; None where that is 0 (linear)."""
    height = OBJECTIVES[run.objective].blind_loss
    return last_quarter(run.columns["critic_loss"]) / height if height else None


def late_margin(columns: Columns) -> tuple[float, float]:
    """Mean margin of the last quarter, and its standard error over the steps (nan for a single step)."""
    late = columns["margin"][-max(1, len(columns["margin"]) // 4) :]
    error = late.std(ddof=1) / len(late) ** 0.5 if len(late) > 1 else float("nan")
    return float(late.mean()), float(error)


def reading(run: Run) -> str:
    """What the last quarter of a run shows: numbers, and what they mean."""
    (margin, error), share = late_margin(run.columns), share_of_blind_loss(run)
    loss = f"{run.objective} critic loss {last_quarter(run.columns['critic_loss']):.2f}"
    if share is not None:
        loss += f" ({share:.0%} of knowing nothing)"
    norms = run.columns["gradient_norm"]
    norm = last_quarter(np.where(norms > 0, norms, np.nan))  # 0 where only the critics learned
    return f"{loss}, margin {margin:+.3f} ± {error:.3f}, gradient {norm:.3g}: {verdict(margin, error, share)}"


def verdict(margin: float, error: float, share: float | None) -> str:
    """Words for a margin with its standard error, and a critics' loss as a share of that of knowing nothing."""
    if not abs(margin) > 2 * error:
        return "no margin beyond chance, the critics tell nothing apart"
    if margin < 0:
        return "the margin is negative, the critics have it the wrong way round"
    if share is not None and share < 0.1:
        return "the critics are almost never wrong"
    return "the margin is positive, the critics tell some of it apart"
