"""Evaluates what generates an image in few steps, and compares orders of the stages of bottom-up refinement.

    python benchmarks/refinement.py orders --steps 320 --seeds 0            # trains in build/refinement/
    python benchmarks/refinement.py models --one-step student.safetensors   # mini, teacher and others
    python benchmarks/refinement.py frontier                                # the teacher at 2 to 50 steps too

Each evaluation adds a row to docs/refinement.csv; rows that are there are not computed again. Distances depend on the
number of images, so compare only rows with the same number.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import tyro
from diffusers import LCMScheduler, StableDiffusionXLPipeline
from tqdm.auto import tqdm

from nitro_lab import load_pipeline
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation.eval_set import TEACHER_GUIDANCE, TEACHER_STEPS
from nitro_lab.evaluation.table import TEACHER
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.sampling import format_steps
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.run import TrainingRun

TABLE = Path("docs/refinement.csv")
ORDERS = {"bottom-up": (1, 2, 3, 4), "top-down": (4, 3, 2, 1), "all at once": (4,)}
SHIPPED = DistillConfig(  # the settings of the shipped student, with a shorter warm-up
    t_star=(10, 250, 500),
    step_sampling="any_step",
    student_update_freq=1,
    learning_rate=1e-5,
    disc_learning_rate=2e-3,
    ema_decay=0.995,
    disc_warmup_steps=40,
)
FEW = (1, 2, 3, 4)
MANY = (2, 4, 8, 12, 25, 50)
NAMES = {"mini": "mini", "regressed student": "mini-regressed"}


def orders(
    steps: int = 320,
    seeds: tuple[int, ...] = (0,),
    only: tuple[str, ...] = tuple(ORDERS),
    num_images: int = evaluation.NUM_IMAGES,
) -> None:
    """Train from the regressed student with stages in other orders, and evaluate the results.

    Args:
        steps: of training, divided equally among the stages.
        seeds: random seeds of the trainings.
        only: orders out of bottom-up, top-down and "all at once".
        num_images: of the evaluation.
    """
    for seed in seeds:
        for order in only:
            stages = ORDERS[order]
            config = replace(SHIPPED, stages=stages, stage_steps=steps // len(stages), max_train_steps=steps, seed=seed)
            run = TrainingRun(config, Path("build/refinement") / f"{order.replace(' ', '-')}-{steps}-{seed}")
            for _ in tqdm(run.steps(), initial=run.step, total=steps, desc=order):
                pass
            evaluate(f"{order}, {steps} steps of training", load_pipeline(run.folder), FEW, num_images, seed)


def models(one_step: str | None = None, num_images: int = evaluation.NUM_IMAGES) -> None:
    """Evaluate the shipped students, the teacher's weights with LCM's sampler, and the teacher at 25 steps.

    Args:
        one_step: weights of the one-step student that was refined, the student.safetensors of its run.
        num_images: of the evaluation.
    """
    for name, model in NAMES.items():
        evaluate(name, load_pipeline(model), FEW, num_images)
    if one_step:
        evaluate("one-step student", load_pipeline("mini-regressed", unet=one_step), FEW, num_images)
    teacher = load_pipeline(TEACHER)
    lcm = LCMScheduler.from_config(teacher.scheduler.config, original_inference_steps=50)
    pipe = StableDiffusionXLPipeline(**teacher.components | {"scheduler": lcm})
    evaluate("teacher's weights, LCM", pipe, FEW, num_images)
    evaluate("teacher", teacher, (TEACHER_STEPS,), num_images, guidance_scale=TEACHER_GUIDANCE)


def frontier(num_images: int = evaluation.NUM_IMAGES) -> None:
    """Evaluate the shipped students, and the teacher at 2 to 50 steps."""
    for name, model in NAMES.items():
        evaluate(name, load_pipeline(model), FEW, num_images)
    evaluate("teacher", load_pipeline(TEACHER), MANY, num_images, guidance_scale=TEACHER_GUIDANCE)


@cache
def load_eval_set(num_images: int) -> evaluation.EvalSet:
    """Make the evaluation set once."""
    teacher = load_pipeline(TEACHER)
    eval_set = evaluation.make_eval_set(teacher, load_scene_classifier(teacher.device), num_images=num_images)
    return evaluation.with_teacher(eval_set, teacher, TEACHER)


def evaluate(
    name: str,
    pipe: StableDiffusionXLPipeline,
    num_inference_steps: tuple[int, ...],
    num_images: int,
    seed: int = 0,
    guidance_scale: float = 0.0,
) -> None:
    """Add a row for each number of steps that is not in the table yet."""
    for steps in num_inference_steps:
        key = {"model": name, "seed": seed, "steps": steps}
        row = key | {"calls": steps * (2 if guidance_scale > 1 else 1), "images": num_images}
        table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=list(row))
        if (table[list(row)] == list(row.values())).all(axis=1).any():
            continue
        eval_set, title = load_eval_set(num_images), f"{name}, {format_steps(steps)}"
        sample = evaluation.sample_eval_set_cached if guidance_scale else evaluation.sample_eval_set
        images = sample(eval_set, pipe, steps, guidance_scale, progress=title)
        metrics = evaluation.compute_metrics(eval_set, images)
        print(title, {key: round(metrics[key], 4) for key in ("told_apart", "all", "FD", "sharpness")}, flush=True)
        pd.concat([table, pd.DataFrame([row | metrics])]).to_csv(TABLE, index=False, float_format="%.4f")


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"orders": orders, "models": models, "frontier": frontier}, description=__doc__
    )
