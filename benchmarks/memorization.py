"""When does the refresh of the pool matter? Heads that see few real samples may memorize them.

    python benchmarks/memorization.py --list
    python benchmarks/memorization.py --only "no refresh" "refresh 1.0%" --seeds 0 1 2 3 4

Memorization is the mean logit, over all heads of the lowest noise level, on the real samples that they are trained on
minus that on other samples of the same teacher. It is measured every 50 steps; every 100 steps the EMA student is
evaluated on held-out captions in one step. Rows are added to docs/memorization.csv as they are measured; runs that it
has are not made again, and several of these commands may run at the same time, for different variants or seeds.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock

from nitro_lab.checkpoint import atomic_write
from nitro_lab.discriminators.losses import gradient_penalty
from nitro_lab.evaluation.eval_set import EvalSet, compute_metrics, make_eval_set
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import decode, encode_prompts, predict_x0
from nitro_lab.training.batch import extract_features
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import TeacherSamples, load_teacher_samples, read_prompts, teacher_sampling
from nitro_lab.training.parts import apply_variant
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import training_step

sys.path.append(str(Path(__file__).parents[1] / "notebooks"))

from workbook.figures.memorization import memorization_curves

TABLE, PICTURE = Path("docs/memorization.csv"), Path("docs/memorization.png")
STEPS, NUM_IMAGES, NUM_OTHERS = 600, 256, 96
CONFIG = DistillConfig(num_real_samples=32, batch_size=8, head_width=64, sampled_heads_per_cell=4, refresh_rate=0.0)
ONE_OF_FOUR = {"sampled_heads_per_cell": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "no refresh": {},
    **{f"refresh {rate:.1%}": {"refresh_rate": rate} for rate in (0.001, 0.01, 0.05)},
    "1 of 4 heads, no refresh": ONE_OF_FOUR,
    "1 of 4 heads, refresh 1.0%": ONE_OF_FOUR | {"refresh_rate": 0.01},
    "pool of 1, no refresh": {"heads_per_cell": 1, "sampled_heads_per_cell": 1},
    "pool of 16, no refresh": {"heads_per_cell": 16},
    "global view only, no refresh": {"views": ("global_conditional",)},
    "R1, no refresh": {"regularizer": partial(gradient_penalty, weight=0.1)},
    **{
        f"{reals} reals, {name}": {"num_real_samples": reals, "refresh_rate": rate}
        for reals in (8, 128, 1024)
        for name, rate in (("no refresh", 0.0), ("refresh 1.0%", 0.01))
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--list", action="store_true", help="only print what has not been run")
    options = parser.parse_args()
    todo = [(name, seed) for name in options.only for seed in options.seeds if not finished(name, seed, options.steps)]
    for name, seed in todo:
        if options.list:
            print(f"python benchmarks/memorization.py --only {shlex.quote(name)} --seeds {seed}")
        elif not finished(name, seed, options.steps):
            run(name, seed, options.steps)
    if not options.list:
        memorization_curves(read_rows()).savefig(PICTURE, dpi=110)


def finished(name: str, seed: int, steps: int) -> bool:
    """Whether the table has a run's last row."""
    rows = read_rows()
    return bool(((rows["variant"] == name) & (rows["seed"] == seed) & (rows["step"] >= steps)).any())


def read_rows() -> pd.DataFrame:
    """All rows; an empty frame if there is no table."""
    columns = ["variant", "seed", "step", "memorization", "FD", "all", "sharpness"]
    return pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=columns)


def add_row(row: dict[str, object]) -> None:
    """Add a row in place of an earlier one of the same variant, seed and step."""
    with FileLock(TABLE.with_suffix(".lock")):
        rows = pd.concat([read_rows(), pd.DataFrame([row])])
        rows = rows.drop_duplicates(["variant", "seed", "step"], keep="last")
        text = rows.to_csv(index=False, float_format="%.5g", lineterminator="\n")
        atomic_write(TABLE, lambda file: file.write_text(text))


def run(name: str, seed: int, steps: int) -> None:
    """Train one variant, and add a row for each measurement."""
    config, parts = apply_variant(replace(CONFIG, seed=seed, max_train_steps=steps), VARIANTS[name])
    state = prepare_training(config, parts=parts)
    others = load_teacher_samples(
        state.pipe,
        read_prompts(state.config),
        NUM_OTHERS,
        *teacher_sampling(state.config),
        seed=1,
    )
    pipe = load_pipeline(state.config.teacher)
    eval_set = make_eval_set(pipe, load_scene_classifier(pipe.device), num_images=NUM_IMAGES)
    for step in range(steps):
        training_step(state, step)
        if (step + 1) % 50 == 0:
            row = {"variant": name, "seed": seed, "step": step + 1, "memorization": memorization(state, others)}
            if (step + 1) % 100 == 0:
                row |= evaluate(state, eval_set)
            add_row(row)
            print(row, flush=True)


@torch.no_grad()
def memorization(state: TrainState, others: TeacherSamples, noise_level: int = 0) -> float:
    """Mean logit of all heads of a noise level on the real samples that they are trained on, minus that on others."""
    panel, device = state.pool.all_heads(noise_level), state.accelerator.device
    means = []
    for samples in (state.samples, others):
        rows = slice(min(len(samples.x0), NUM_OTHERS))
        x0, embeds = samples.x0[rows].to(device), samples.embeds[rows].to(device)
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(x0)
        features = extract_features(state, x0, embeds, noise, state.config.t_star[noise_level], crop_seed=0)
        means.append(torch.stack([logits.mean() for logits in panel.score(features)]).mean().item())
    return means[0] - means[1]


@torch.no_grad()
def evaluate(state: TrainState, eval_set: EvalSet) -> dict[str, float]:
    """Metrics of the EMA student in one step."""
    embeds, x_T = encode_prompts(state.pipe, eval_set.prompts), eval_set.x_T
    rows = [slice(start, start + 64) for start in range(0, len(x_T), 64)]
    with state.averaged() as student:
        batches = [predict_x0(student, state.scheduler, x_T[some], embeds[some]) for some in rows]
    metrics = compute_metrics(eval_set, decode(state.pipe, torch.cat(batches)))
    return {name: metrics[name] for name in ("FD", "all", "sharpness")}


if __name__ == "__main__":
    main()
