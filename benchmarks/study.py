"""A comparison that takes hours: its rows are kept in docs/, and runs that are missing are made one by one."""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from filelock import FileLock

from nitro_lab.checkpoint import atomic_write
from nitro_lab.experiments.compare import FOLDER, PlannedRun, Result, Variant, execute, plan
from nitro_lab.experiments.summary import summarize, to_frame
from nitro_lab.training.config import DistillConfig

sys.path.append(str(Path(__file__).parents[1] / "notebooks"))

from workbook.figures.compare import sample_grids

__all__ = ["Study"]


@dataclass(frozen=True)
class Study:
    """Variants, and what they are compared at. The first variant is the reference.

    `table` gets a row per run; beside it are its means and differences (`_means.csv`) and samples (`_grids.png`).
    """

    table: Path
    variants: Mapping[str, Variant]
    config: DistillConfig
    steps: int | Mapping[str, int]  # for all variants, or for each
    num_images: int
    command: str  # the script that runs it, with options of its own

    @property
    def reference(self) -> str:
        """The variant that the others are compared with."""
        return next(iter(self.variants))

    @property
    def means(self) -> Path:
        """The file of means and differences."""
        return self.table.with_name(f"{self.table.stem}_means.csv")

    def main(self, description: str, default: Sequence[str] = (), arguments: Sequence[str] | None = None) -> None:
        """The command line: make the rows that are missing, or list them."""
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        variants = list(default or self.variants)
        parser.add_argument("--only", nargs="+", default=variants, choices=self.variants, metavar="VARIANT")
        parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
        parser.add_argument("--jobs", type=int, help="runs at a time; default: one per GPU or CPU core")
        parser.add_argument("--list", action="store_true", help="only print what has not been run")
        options = parser.parse_args(arguments)
        if not options.list:
            for result in execute(self.missing(self.plan(options.only, options.seeds)), options.jobs):
                self.append(result)
                print(result.variant, "seed", result.seed, result.failed or result.metrics, flush=True)
            self.write_means(self.plan(list(self.variants), sorted({*options.seeds, *self.rows().get("seed", [])})))
        missing = self.missing(self.plan(list(self.variants), options.seeds))
        for name in dict.fromkeys(run.variant for run in missing):
            seeds = " ".join(str(run.config.seed) for run in missing if run.variant == name)
            print(f"python benchmarks/{self.command} --only {shlex.quote(name)} --seeds {seeds}")

    def plan(self, names: Sequence[str], seeds: Sequence[int]) -> list[PlannedRun]:
        """The runs of some variants, seed by seed."""
        by_steps: dict[int, dict[str, Variant]] = {}
        for name in names:
            steps = self.steps if isinstance(self.steps, int) else self.steps[name]
            by_steps.setdefault(steps, {})[name] = self.variants[name]
        runs = [
            replace(run, reference=self.reference)
            for steps, variants in by_steps.items()
            for run in plan(variants, seeds, steps, FOLDER, self.num_images, self.config)
        ]
        return sorted(runs, key=lambda run: run.config.seed)

    def rows(self) -> pd.DataFrame:
        """All rows; an empty frame if there is no table."""
        return pd.read_csv(self.table) if self.table.exists() else pd.DataFrame(columns=["variant", "settings", "seed"])

    def append(self, result: Result) -> None:
        """Add a result to the table, unless it is there; one process at a time."""
        with FileLock(self.table.with_suffix(".lock")):
            rows = self.rows()
            if not ((rows["variant"] == result.variant) & (rows["settings"] == result.settings)).any():
                rows = pd.concat([rows, to_frame([result]).drop(columns=["captions", "grid", "key"])])
                text = rows.to_csv(index=False, float_format="%.5g", lineterminator="\n")
                atomic_write(self.table, lambda file: file.write_text(text))

    def missing(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Runs that the table does not have, whichever version of the code made its rows."""
        rows = self.rows()
        known = set(zip(rows["variant"], rows["settings"], strict=True))
        return [run for run in runs if (run.variant, run.settings) not in known]

    def write_means(self, runs: Sequence[PlannedRun]) -> None:
        """Summarize the table's rows of these runs; rows of other weights or lengths have other settings.

        The grid is drawn if all variants of the table were run on this machine.
        """
        wanted = pd.DataFrame({"variant": run.variant, "settings": run.settings} for run in runs)
        rows = wanted.merge(self.rows(), "inner", ["variant", "settings"])
        if not (rows["variant"] == self.reference).any():
            return
        summary = summarize(rows if isinstance(self.steps, int) else rows.assign(steps=0), self.reference)
        summary.to_csv(self.means, float_format="%.6g", lineterminator="\n")
        found = [result for run in runs if (result := run.find())]
        if {result.variant for result in found} >= set(rows["variant"]):
            sample_grids(to_frame(found)).savefig(self.table.with_name(f"{self.table.stem}_grids.png"), dpi=72)
