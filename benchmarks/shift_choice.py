"""Which shift should the student be trained at? A short regression at each, from the same teacher and pairs.

    python benchmarks/shift_choice.py --shifts 250 500 1000 --steps 150

Prints the squared error of x0 on pairs that no student was trained on. The less, the better one step is learned. With
--keep, each student is left in FOLDER/SHIFT as a pipeline, from which a training or `benchmarks/ablation.py` can start.
"""

import argparse
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.mini.recipes import RECIPES, Recipe
from nitro_lab.mini.teacher_cache import cache_teacher, load_pairs
from nitro_lab.mini.train_regressed import Pairs, train_regressed
from nitro_lab.mini.world import caption
from nitro_lab.sampling import generate
from nitro_lab.scheduler import TimestepShiftLCMScheduler

KEPT_BACK = 128  # pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shifts", type=int, nargs="+", default=[250, 500, 1000])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the students are left (default: nowhere)")
    options = parser.parse_args()
    teacher = load_pipeline("mini-teacher")
    sizes = {"cache_pairs": options.pairs + KEPT_BACK, "regressed_steps": options.steps}
    recipe = replace(RECIPES["cpu"], regressed_schedule=1, **sizes)
    with TemporaryDirectory() as folder:
        cache = Path(folder) / "cache.safetensors"
        for _ in cache_teacher(recipe, cache, teacher):
            pass
        pairs = load_pairs(cache, teacher.device)
        for shift in options.shifts:
            recipe = replace(recipe, regressed_shift=shift)
            student = train_student(recipe, Path(folder) / f"{shift}.safetensors", pairs)
            error = error_of(student, pairs)
            print(f"shift {shift:4}: squared error of x0 {error:.4f} after {options.steps} steps", flush=True)
            if options.keep:
                student.save_pretrained(options.keep / str(shift))


def train_student(recipe: Recipe, file: Path, pairs: Pairs) -> StableDiffusionXLPipeline:
    """Train a copy of the teacher on most of the pairs."""
    pipe = load_pipeline("mini-teacher")
    student = deepcopy(pipe.unet).requires_grad_()
    learned: Pairs = tuple(part[KEPT_BACK:] for part in pairs)  # type: ignore[assignment]
    for _ in train_regressed(recipe, file, pipe, student, learned):
        pass
    pipe.unet = student
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(
        pipe.scheduler.config, shifted_timestep=recipe.regressed_shift
    )
    return pipe


def error_of(pipe: StableDiffusionXLPipeline, pairs: Pairs) -> float:
    """Mean squared error of x0 in one step, on the rest of the pairs."""
    scenes, noise, x0 = (part[:KEPT_BACK] for part in pairs)
    return F.mse_loss(generate(pipe, [caption(scene) for scene in scenes], noise, steps=1), x0).item()


if __name__ == "__main__":
    main()
