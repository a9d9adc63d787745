"""Recorded runs to compare a run with, and what the last quarter of a run says."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nitro_lab.discriminators.losses import GAN_LOSSES

__all__ = ["DESCRIPTIONS", "Run", "describe", "last_quarter", "read_runs"]

DESCRIPTIONS = {  # their settings are in benchmarks/reference_runs.py
    "healthy": "the default settings",
    "too-strong": "the student is updated in every twentieth step only, and no head is re-initialized",
    "learned-nothing": "the heads' learning rate is almost 0, so their loss stays at 2·ln 2",
    "no-refresh": "no head is re-initialized",
    "refresh-too-often": "5 % of all heads are re-initialized after each step",
}


@dataclass(frozen=True)
class Run:
    """The reports of a run, the name of its GAN loss, and what was special about it."""

    reports: pd.DataFrame
    gan_loss: str
    description: str = ""


def read_runs(folder: Path) -> dict[str, Run]:
    """Read each NAME.csv (a run's reports) and NAME.json (its settings) of a folder, in the order of `DESCRIPTIONS`."""
    order = [*DESCRIPTIONS, *sorted({file.stem for file in folder.glob("*.csv")} - DESCRIPTIONS.keys())]
    runs = {}
    for file in (folder / f"{name}.csv" for name in order):
        if file.exists():
            gan_loss = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["gan_loss"]
            runs[file.stem] = Run(pd.read_csv(file), gan_loss, DESCRIPTIONS.get(file.stem, ""))
    return runs


def last_quarter(values: pd.Series) -> pd.Series:
    """Return the finite values of the last quarter of a column."""
    late = values.iloc[-max(1, len(values) // 4) :]
    return late[np.isfinite(late)]


def describe(run: Run) -> str:
    """Describe the last quarter of a run: its means, and what they say."""
    loss, gaps = last_quarter(run.reports["disc_loss"]).mean(), last_quarter(run.reports["logit_gap"])
    gap, error, uninformed = gaps.mean(), gaps.std() / len(gaps) ** 0.5, GAN_LOSSES[run.gan_loss].uninformed_loss
    norm = last_quarter(run.reports["grad_norm"].where(run.reports["grad_norm"] > 0)).mean()
    share = f" ({loss / uninformed:.0%} of the uninformed loss)" if uninformed else ""
    verdicts = {
        "the logit gap is not distinguishable from 0": not abs(gap) > 2 * error,
        "the logit gap is negative: the heads rate fakes higher": gap < 0,
        "the heads are almost always right": uninformed and loss < 0.1 * uninformed,
        "the logit gap is positive: the heads tell some of real and fake apart": True,
    }
    numbers = f"{run.gan_loss} discriminator loss {loss:.2f}{share}, logit gap {gap:+.3f} ± {error:.3f}"
    return f"{numbers}, gradient norm {norm:.3g}: {next(filter(verdicts.get, verdicts))}"
