"""What is each further step worth? Exams of all that makes a picture in few steps, and orders of the stages compared.

    python benchmarks/refinement.py orders --steps 320 --seeds 0            # trains in build/refinement/
    python benchmarks/refinement.py models --one-step student.safetensors   # mini beside teacher and others
    python benchmarks/refinement.py frontier --images 128                   # the teacher at 2 to 50 steps too

`orders` trains from the soft student: bottom-up, top-down, and all schedules at once, under the same number of updates.
`models` examines the shipped student, the one that it was refined from (a run folder or weights, if there is one), the
soft student, the teacher's weights under LCM's sampler, and the teacher at 25 steps; `frontier` fewer of them, on fewer
images, and the teacher at 2 to 50 steps. Distances hang on the number of images, so compare rows of one number only.
Each exam adds a row to docs/refinement.csv, and none is sat twice.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from diffusers import LCMScheduler, StableDiffusionXLPipeline
from tqdm.auto import tqdm

from nitro_lab import load_pipeline
from nitro_lab.distill_config import DistillConfig
from nitro_lab.exam import Exam, mark, set_exam, sit, sit_once
from nitro_lab.marks import TEACHER, TEACHER_GUIDANCE, TEACHER_STEPS
from nitro_lab.mini.judge import load_judge
from nitro_lab.runs.folder import run
from nitro_lab.stages import steps_in_words

TABLE = Path("docs/refinement.csv")
ORDERS = {"bottom-up": (1, 2, 3, 4), "top-down": (4, 3, 2, 1), "all at once": (4,)}
SHIPPED = DistillConfig(  # the settings of the student that the miniature ships, with a shorter warm-up
    t_star=(10, 250, 500),
    step_law="any step",
    student_every=1,
    student_rate=1e-5,
    critic_rate=2e-3,
    ema=0.995,
    warm_up=40,
)
FEW = (1, 2, 3, 4)
MANY = (2, 4, 8, 12, 25, 50)
NAMES = {"mini": "mini", "mini-regressed": "soft student"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("orders", "models", "frontier"))
    parser.add_argument("--only", nargs="+", default=list(ORDERS), choices=ORDERS, metavar="ORDER")
    parser.add_argument("--steps", type=int, default=320, help="of training, over all stages")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--one-step", help="a run's student.safetensors before it was refined")
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    teacher = load_pipeline(TEACHER)
    exam = set_exam(teacher, load_judge(teacher.device), images=options.images)
    if options.part == "orders":
        for seed in options.seeds:
            for order in options.only:
                student = train_in_order(order, options.steps, seed)
                examine(f"{order}, {options.steps} steps of training", student, FEW, exam, seed)
    elif options.part == "models":
        examine_models(teacher, exam, options.one_step)
    else:
        for name in ("mini", "mini-regressed"):
            examine(NAMES[name], load_pipeline(name), FEW, exam)
        examine("teacher", teacher, MANY, exam, guidance=TEACHER_GUIDANCE)


def train_in_order(order: str, steps: int, seed: int) -> StableDiffusionXLPipeline:
    """Each stage has the same share of the steps; the student is the averaged one, at the shipped student's rates."""
    stages = ORDERS[order]
    config = replace(SHIPPED, stages=stages, stage_steps=steps // len(stages), steps=steps, seed=seed)
    folder = Path("build/refinement") / f"{order.replace(' ', '-')}-{steps}-{seed}"
    for _ in tqdm(run(config, folder), total=steps, desc=order):
        pass
    return load_pipeline(config.student, unet=folder / "student.safetensors")


def examine_models(teacher: StableDiffusionXLPipeline, exam: Exam, one_step: str | None) -> None:
    """The students and samplers that the refined student is measured against."""
    for name in NAMES:
        examine(NAMES[name], load_pipeline(name), FEW, exam)
    if one_step:
        examine("one-step student", load_pipeline("mini-regressed", unet=one_step), FEW, exam)
    lcm = LCMScheduler.from_config(teacher.scheduler.config, original_inference_steps=50)
    examine("teacher's weights, LCM", StableDiffusionXLPipeline(**teacher.components | {"scheduler": lcm}), FEW, exam)
    examine("teacher", teacher, (TEACHER_STEPS,), exam, guidance=TEACHER_GUIDANCE)


def examine(
    name: str, pipe: StableDiffusionXLPipeline, counts: tuple[int, ...], exam: Exam, seed: int = 0, guidance: float = 0
) -> None:
    """Add a row for each number of steps that is not in the table yet."""
    images = len(exam.scenes)
    for count in counts:
        if (name, str(seed), str(count), str(images)) in done():
            continue
        title = f"{name}, {steps_in_words(count)}"
        drawn = sit_once(exam, pipe, count, guidance, title) if guidance else sit(exam, pipe, count, title=title)
        calls = count * (2 if guidance > 1 else 1)
        row = {"model": name, "seed": seed, "steps": count, "calls": calls, "images": images}
        write(row | mark(exam, drawn))


def done() -> set[tuple[str, str, str, str]]:
    """Model, seed, steps and images of every row of the table."""
    if not TABLE.exists():
        return set()
    with TABLE.open(newline="") as file:
        return {(row["model"], row["seed"], row["steps"], row["images"]) for row in csv.DictReader(file)}


def write(row: dict) -> None:
    """Print a row and add it to the table."""
    row = {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
    print({key: row[key] for key in ("model", "seed", "steps", "texture", "all", "FD", "sharpness")}, flush=True)
    fresh = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
