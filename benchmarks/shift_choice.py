"""Compares shifted timesteps for training a student: a short regression with each, from the same teacher and pairs.

    python -m benchmarks.shift_choice --shifts 250 500 1000 --steps 150

Prints the squared error of x0 on pairs that no student was trained on; a smaller error means that one-step inference is
easier to learn.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch.nn.functional as F
import tyro
from diffusers import StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.evaluation.table import TEACHER
from nitro_lab.mini.world import caption
from nitro_lab.sampling import sample_latents
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from tools.miniature.recipes import RECIPES, Recipe
from tools.miniature.stages import Pairs, train_regressed
from tools.miniature.teacher_cache import cache_teacher, load_pairs

TEST_PAIRS = 128


def main(
    shifts: tuple[int, ...] = (250, 500, 1000), steps: int = 150, pairs: int = 512, out: Path | None = None
) -> None:
    """Train a student for some steps at each shifted timestep (1000 is no shift), test it, and save it in out/SHIFT."""
    teacher = load_pipeline(TEACHER)
    sizes = {"cache_pairs": pairs + TEST_PAIRS, "regressed_steps": steps}
    recipe = replace(RECIPES["cpu"], regressed_max_steps=1, **sizes)
    with TemporaryDirectory() as folder:
        cache = Path(folder) / "cache.safetensors"
        for _ in cache_teacher(recipe, cache, teacher):
            pass
        samples = load_pairs(cache, teacher.device)
        for shift in shifts:
            recipe = replace(recipe, regressed_shift=shift)
            student = train_student(recipe, Path(folder) / f"{shift}.safetensors", samples)
            scenes, x_T, x0 = (part[:TEST_PAIRS] for part in samples)
            predicted = sample_latents(student, [caption(scene) for scene in scenes], x_T, 1)
            print(f"shift {shift:4}: squared error of x0 {F.mse_loss(predicted, x0).item():.4f}", flush=True)
            if out:
                student.save_pretrained(out / str(shift))


def train_student(recipe: Recipe, file: Path, samples: Pairs) -> StableDiffusionXLPipeline:
    """Train a copy of the teacher on all but the test pairs."""
    pipe = load_pipeline(TEACHER)
    student = deepcopy(pipe.unet).requires_grad_()
    scenes, x_T, x0 = (part[TEST_PAIRS:] for part in samples)
    for _ in train_regressed(recipe, file, pipe, student, (scenes, x_T, x0)):
        pass
    pipe.unet = student
    config, shift = pipe.scheduler.config, recipe.regressed_shift
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(config, shifted_timestep=shift)
    return pipe


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
