"""The paper's ablation with numbers: each part of the method, or one setting, is changed alone.

    python benchmarks/ablation.py --list
    python benchmarks/ablation.py --only full "no refresh" --seeds 0 1 2 3 4 --jobs 2

Runs are short and small, start from the same one-step student, and are kept in build/compare/. Each finished run is a
row of docs/ablation.csv; runs that are there, or on disk, are not made again, and several of these commands may run at
the same time. Means, intervals and differences from "full" are written to docs/ablation_means.csv, samples of the runs
of this machine to docs/ablation_grids.png. Without --only, the parts of the method are run; --list names all the rest.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from filelock import FileLock

from nitro_lab.checkpoint import atomic_write
from nitro_lab.experiments.compare import BASE, FOLDER, PlannedRun, Result, Variant, execute, plan
from nitro_lab.experiments.summary import summarize, to_frame
from nitro_lab.plots.compare import sample_grids

REFERENCE = "full"
TABLE = Path("docs/ablation.csv")
MEANS, GRIDS = Path("docs/ablation_means.csv"), Path("docs/ablation_grids.png")
CONFIG = replace(BASE, disc_warmup_steps=40, student_update_freq=1, batch_size=8)
PARTS: dict[str, Variant] = {
    REFERENCE: {},
    "no refresh": {"refresh_rate": 0.0},
    "no pool": {"heads_per_cell": 1, "sampled_heads_per_cell": 1, "refresh_rate": 0.0},
    "no local views": {"views": ("global_conditional",)},
    "no unconditional view": {"views": ("global_conditional", "local_conditional")},
    **{f"noise level {t} alone": {"t_star": (t,)} for t in (10, 250, 500, 750)},
    "linear": {"gan_loss": "linear"},
    "non-saturating": {"gan_loss": "non_saturating"},
    "1 of 4 heads sampled": {"sampled_heads_per_cell": 1},
    "refresh 10.0%": {"refresh_rate": 0.1},
}
FURTHER: dict[str, Variant] = {
    "as printed in the paper": {"gan_loss": "linear", "sampled_heads_per_cell": 1, "refresh_rate": 0.01},
    "2 of 4 heads sampled": {"sampled_heads_per_cell": 2},
    **{f"refresh {rate:.1%}": {"refresh_rate": rate} for rate in (0.003, 0.01, 0.03)},
    "refresh 1.0%, optimizer kept": {"refresh_rate": 0.01, "reset_optimizer_on_refresh": False},
    "pool of 1": {"heads_per_cell": 1, "sampled_heads_per_cell": 1},
    "pool of 16": {"heads_per_cell": 16, "sampled_heads_per_cell": 4},
    # not in the paper
    **{f"learning rate {rate:g}": {"learning_rate": rate} for rate in (1e-5, 1e-4)},
    **{f"D learning rate {rate:g}": {"disc_learning_rate": rate} for rate in (1e-3, 2e-2)},
    "two D steps per G step": {"student_update_freq": 2},
    "no warm-up": {"disc_warmup_steps": 0},
    "no EMA": {"ema_decay": 0.0},
    "narrow heads": {"head_width": 16},
    "crops of 12": {"crop_size": 12},
    "four crops": {"crops_per_image": 4},
}
STUDENTS = {f"shift {shift}": Path(f"build/shift/{shift}") for shift in (125, 500, 1000)}  # the shipped one's is 250
SHIFTED: dict[str, Variant] = {name: {"init_from": str(path)} for name, path in STUDENTS.items() if path.is_dir()}
VARIANTS = PARTS | FURTHER | SHIFTED
STEPS, NUM_IMAGES = 160, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--num-images", type=int, default=NUM_IMAGES)
    parser.add_argument("--jobs", type=int, help="runs at a time; default: one per GPU or CPU core")
    parser.add_argument("--list", action="store_true", help="only print what has not been run")
    options = parser.parse_args()

    def planned(names: Sequence[str], seeds: Sequence[int]) -> list[PlannedRun]:
        variants = {name: VARIANTS[name] for name in names}
        return plan(variants, seeds, options.steps, FOLDER, options.num_images, CONFIG)

    if not options.list:
        missing = without_rows(planned(options.only, options.seeds))
        for result in execute(missing, options.jobs):
            append_row(result, TABLE)
            print(result.variant, "seed", result.seed, result.failed or result.metrics, flush=True)
        if (options.steps, options.num_images) == (STEPS, NUM_IMAGES):
            seeds = sorted({*options.seeds, *read_rows(TABLE).get("seed", [])})
            write_means(planned(list(VARIANTS), seeds))
    print_missing(without_rows(planned(list(VARIANTS), options.seeds)), options.steps, options.num_images)


def read_rows(table: Path) -> pd.DataFrame:
    """All rows; an empty frame if there is no table."""
    return pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["variant", "key", "seed"])


def append_row(result: Result, table: Path) -> None:
    """Add a result to the table, unless it is there; one process at a time."""
    with FileLock(table.with_suffix(".lock")):
        rows = read_rows(table)
        if not ((rows["variant"] == result.variant) & (rows["key"] == result.key)).any():
            rows = pd.concat([rows, to_frame([result]).drop(columns=["captions", "grid"])])
            text = rows.to_csv(index=False, float_format="%.5g", lineterminator="\n")
            atomic_write(table, lambda file: file.write_text(text))


def without_rows(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs that the table does not have."""
    rows = read_rows(TABLE)
    known = set(zip(rows["variant"], rows["key"], strict=True))
    return [run for run in runs if (run.variant, run.key) not in known]


def write_means(runs: Sequence[PlannedRun]) -> None:
    """Summarize the table's rows of these runs; rows of other weights or lengths have other keys.

    The grid is drawn if all variants of the table were run on this machine.
    """
    wanted = pd.DataFrame({"variant": run.variant, "key": run.key} for run in runs)
    rows = wanted.merge(read_rows(TABLE), "inner", ["variant", "key"])
    if not (rows["variant"] == REFERENCE).any():
        return
    summarize(rows, REFERENCE).to_csv(MEANS, float_format="%.6g", lineterminator="\n")
    found = [result for run in runs if (result := run.find())]
    if {result.variant for result in found} >= set(rows["variant"]):
        sample_grids(to_frame(found)).savefig(GRIDS, dpi=72)


def print_missing(runs: Sequence[PlannedRun], steps: int, num_images: int) -> None:
    """Print the commands of runs that the table does not have."""
    for name in dict.fromkeys(run.variant for run in runs):
        seeds = " ".join(str(run.config.seed) for run in runs if run.variant == name)
        options = f"--seeds {seeds} --steps {steps} --num-images {num_images}"
        print(f"python benchmarks/ablation.py --only {shlex.quote(name)} {options}")
    if missing := " ".join(path.name for name, path in STUDENTS.items() if name not in SHIFTED):
        command = f"python benchmarks/shift_choice.py --shifts {missing} --steps 500 --pairs 2048 --keep build/shift"
        print(f"The variants shift N need one-step students:\n{command}")


if __name__ == "__main__":
    main()
