"""The paper's ablation with numbers: each part of the method, or setting, changed alone, from the same soft student.

    python benchmarks/ablation.py --list
    python benchmarks/ablation.py --only full "no refresh" --seeds 0 1 2 3 4 --jobs 2

Runs are short and small: the student learns in every step and starts early, of batches of 8. Each is kept in
build/compare/, and each finished one is a row of docs/ablation.csv. Neither is made twice: a run that was cut goes on,
and several of these commands may be at work at the same time. Means, intervals and differences from "full", over all
seeds of that table, are written to docs/ablation_means.csv, and with the pictures of the runs that were made here to
build/ablation.html and docs/ablation_grids.png. Without --only, the parts of the method; --list names all the rest too.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nitro_lab.compare import FOLDER, carry_out
from nitro_lab.compare.ablation import REFERENCE, append_result, read_results
from nitro_lab.compare.pictures import grids
from nitro_lab.compare.planning import BASE, Change, plan
from nitro_lab.compare.run import GRID_PICTURES, Result, Run
from nitro_lab.compare.table import tabulate, write_csv, write_page

TABLE = Path("docs/ablation.csv")
MEANS, GRIDS = Path("docs/ablation_means.csv"), Path("docs/ablation_grids.png")
PAGE = Path("build/ablation.html")
CONFIG = replace(BASE, warm_up=40, student_every=1, batch_size=8)
NO_POOL = {"slots": 1, "per_cell": 1, "refresh": 0.0}
PARTS: dict[str, Change] = {
    "full": {},
    "no refresh": {"refresh": 0.0},
    "no pool": NO_POOL,
    "no local views": {"views": ("global conditional",)},
    "no unconditional view": {"views": ("global conditional", "local conditional")},
    **{f"noise level {t} alone": {"t_star": (t,)} for t in (10, 250, 500, 750)},
    "linear": {"objective": "linear"},
    "non-saturating": {"objective": "non-saturating"},
    "1 of 4 heads drawn": {"per_cell": 1},
    "refresh 10.0%": {"refresh": 0.1},
}
FURTHER: dict[str, Change] = {
    "the paper's letter": {"objective": "linear", "per_cell": 1, "refresh": 0.01},
    "2 of 4 heads drawn": {"per_cell": 2},
    **{f"refresh {share:.1%}": {"refresh": share} for share in (0.003, 0.01, 0.03)},
    "refresh 1.0%, moments kept": {"refresh": 0.01, "refresh_clears": False},
    "pool of 1": {"slots": 1, "per_cell": 1},
    "pool of 16": {"slots": 16, "per_cell": 4},
    # what the paper says nothing of
    **{f"student's rate {rate:g}": {"student_rate": rate} for rate in (1e-5, 1e-4)},
    **{f"critics' rate {rate:g}": {"critic_rate": rate} for rate in (1e-3, 2e-2)},
    "two critic steps for each": {"student_every": 2},
    "no warm-up": {"warm_up": 0},
    "no average": {"ema": 0.0},
    "narrow heads": {"width": 16},
    "crops of 12": {"crop_size": 12},
    "four crops": {"crops": 4},
}
STUDENTS = Path("build/shift")
OTHER_SHIFTS = {
    f"shift {shift}": STUDENTS / str(shift) for shift in (125, 500, 1000)
}  # the shipped soft student's: 250
SHIFTED: dict[str, Change] = {
    name: {"student": str(folder)} for name, folder in OTHER_SHIFTS.items() if folder.is_dir()
}
VARIANTS = PARTS | FURTHER | SHIFTED
STEPS, IMAGES = 160, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--jobs", type=int, help="runs side by side; default: one a GPU, or one a core")
    parser.add_argument("--list", action="store_true", help="only say what is not yet run")
    options = parser.parse_args()
    if not options.list:
        chosen = {name: VARIANTS[name] for name in options.only}
        runs = plan(chosen, options.seeds, options.steps, FOLDER, options.images, CONFIG)
        there = rows_there()
        for result in carry_out([run for run in runs if (run.variant, run.key) not in there], options.jobs):
            append_result(result, TABLE)
            print(line_of(result), flush=True)
    asked = set(options.seeds)
    seeds = sorted(asked | {result.seed for result in read_results(TABLE)})
    everything = plan(VARIANTS, seeds, options.steps, FOLDER, options.images, CONFIG)
    if not options.list and (options.steps, options.images) == (STEPS, IMAGES):
        write_means(everything)
    print(not_run([run for run in everything if run.config.seed in asked], options.steps, options.images))


def rows_there() -> dict[tuple[str, str], Result]:
    """The table's rows by variant and key."""
    return {(result.variant, result.key): result for result in read_results(TABLE)}


def write_means(runs: Sequence[Run]) -> None:
    """Tabulate the rows of these runs, wherever they were made; rows of other weights or lengths have other keys.

    Pictures are there only of runs that were made here; the grid for docs/ is drawn if it has all variants.
    """
    there = rows_there()
    made = [with_pictures(there[run.variant, run.key], run) for run in runs if (run.variant, run.key) in there]
    if not any(result.variant == REFERENCE for result in made):
        return
    made.sort(key=lambda result: list(VARIANTS).index(result.variant))
    rows = tabulate(made, REFERENCE)
    write_csv(rows, MEANS)
    write_page(rows, PAGE, next((result.captions for result in made if result.captions), []))
    if all(row.grid.is_file() for row in rows):
        grids(made, GRID_PICTURES).savefig(GRIDS, dpi=72)


def with_pictures(row: Result, run: Run) -> Result:
    """A row with the captions and the grid of its run, if this machine has them; the numbers are the table's."""
    found = run.found()
    return replace(row, captions=found.captions, grid=found.grid) if found else row


def line_of(result: Result) -> str:
    """A result in one line."""
    shown = (
        {name: round(result.marks[name], 3) for name in ("all", "texture", "FD", "recall", "sharpness")}
        if result.marks
        else result.failed
    )
    return f"{result.variant}, seed {result.seed}: {shown}, {result.seconds:.2f} s a step"


def not_run(runs: Sequence[Run], steps: int, images: int) -> str:
    """What the table does not have, each with the command for it."""
    there = rows_there()
    lines = []
    for name in VARIANTS:
        seeds = [str(run.config.seed) for run in runs if run.variant == name and (name, run.key) not in there]
        if seeds:
            options = f"--seeds {' '.join(seeds)} --steps {steps} --images {images}"
            lines.append(f"  python benchmarks/ablation.py --only {shlex.quote(name)} {options}")
    head = f"Not yet run at {steps} steps and {images} images:" if lines else "All variants are run."
    if lacking := " ".join(folder.name for name, folder in OTHER_SHIFTS.items() if name not in SHIFTED):
        lines += [
            "Variants shift N come here once they have a student to start from:",
            f"  python benchmarks/shift_choice.py --shifts {lacking} --steps 500 --pairs 2048 --keep {STUDENTS}",
        ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
