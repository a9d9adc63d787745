"""What matters in adversarial distillation? Short runs from the same soft student, each with one setting changed.

    python benchmarks/tries.py --steps 300 --seeds 0
    python benchmarks/tries.py --only paper linear --seeds 0 1 2

Each run is kept in build/tries/, each finished one adds a row of marks to docs/tries.csv, and neither is done twice.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from nitro_lab import load_pipeline
from nitro_lab.distill_config import DistillConfig
from nitro_lab.exam import Exam, mark, set_exam, sit
from nitro_lab.mini.judge import load_judge
from nitro_lab.runs.folder import read_reports, run

TABLE = Path("docs/tries.csv")
VARIANTS: dict[str, dict] = {
    "default": {},
    "paper's letter": {"objective": "linear", "per_cell": 1, "refresh": 0.01},
    "linear": {"objective": "linear"},
    "non-saturating": {"objective": "non-saturating"},
    "refresh 1 %": {"refresh": 0.01},
    "refresh 5 %": {"refresh": 0.05},
    "no refresh": {"refresh": 0.0},
    "one head a cell drawn": {"per_cell": 1},
    "student rate 1e-5": {"student_rate": 1e-5},
    "student rate 1e-4": {"student_rate": 1e-4},
    "critic rate 1e-3": {"critic_rate": 1e-3},
    "critic rate 2e-2": {"critic_rate": 2e-2},
    "two noise levels": {"t_star": (10, 250)},
    "no warm-up": {"warm_up": 0},
    "as many steps of either": {"student_every": 1},
    "four critic steps": {"student_every": 4},
    "no average": {"ema": 0.0},
    "narrow heads": {"width": 16},
    "whole latents only": {"views": ("global conditional",)},
    "crops of 12": {"crop_size": 12},
    "four crops": {"crops": 4},
}
SHOWN = ("all", "texture", "FD", "recall", "coverage", "sharpness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    teacher = load_pipeline("mini-teacher")
    exam = set_exam(teacher, load_judge(teacher.device), images=options.images)
    for seed in options.seeds:
        for name in options.only:
            if (name, str(seed), str(options.steps)) not in done():
                try_one(name, replace(DistillConfig(seed=seed, steps=options.steps), **VARIANTS[name]), exam)


def done() -> set[tuple[str, str, str]]:
    """Variant, seed and steps of every row of the table."""
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="") as file:
        return {(row["variant"], row["seed"], row["steps"]) for row in csv.DictReader(file)}


def try_one(name: str, config: DistillConfig, exam: Exam) -> None:
    """Train, examine the averaged student, and add a row."""
    folder = Path("build/tries") / f"{name.replace(' ', '-')}-{config.seed}"
    for _ in tqdm(run(config, folder), total=config.steps, desc=name):
        pass
    reports = read_reports(folder)
    marks = mark(exam, sit(exam, load_pipeline(config.student, unet=folder / "student.safetensors"), 1))
    row = {"variant": name, "seed": config.seed, "steps": config.steps, "images": len(exam.scenes)}
    row |= {"seconds": round(sum(reports["seconds"])), "margin": sum(reports["margin"][-50:]) / 50} | marks
    print(name, {key: round(marks[key], 3) for key in SHOWN}, flush=True)
    fresh = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
