"""Can one head that is never refreshed tell the student's samples from the teacher's, and after how many updates?

    python benchmarks/one_head.py --updates 10 30 100 300 --csv docs/one_head.csv

For each noise level, one head per view and feature level is trained on samples of the teacher and new fakes; the
student is not trained. After some numbers of updates each head is evaluated on images (or crops) it has not seen:

separation    fraction of pairs (teacher sample, fake) in which the former gets the higher logit; 0.5 is random
memorization  fraction of pairs (sample that it was trained on, sample that it was not) in which the former gets the
              higher logit; 0.5 means that no sample was memorized
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from nitro_lab.discriminators.pool import Panel, ViewFeatures
from nitro_lab.sampling import predict_x0
from nitro_lab.training.batch import extract_features, sample_batch
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import TeacherSamples
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import training_step

HELD_OUT = 256  # samples of the teacher for the evaluation only
BATCHES = 16  # of an evaluation


def main() -> None:
    """Train and evaluate the heads of each noise level, and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--t-star", type=int, nargs="+", default=DistillConfig.t_star)
    parser.add_argument("--disc-learning-rate", type=float, default=DistillConfig.disc_learning_rate)
    parser.add_argument("--gan-loss", default=DistillConfig.gan_loss)
    parser.add_argument("--num-real-samples", type=int, default=DistillConfig.num_real_samples)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    config = DistillConfig(
        heads_per_cell=1,
        sampled_heads_per_cell=1,
        refresh_rate=0.0,
        disc_warmup_steps=max(options.updates),  # the student is not updated
        num_real_samples=options.num_real_samples,
        disc_learning_rate=options.disc_learning_rate,
        gan_loss=options.gan_loss,
    )
    rows = [row for t_star in options.t_star for row in study(replace(config, t_star=(t_star,)), options.updates)]
    if options.csv:
        pd.DataFrame(rows).to_csv(options.csv, index=False)


def study(config: DistillConfig, updates: list[int]) -> Iterator[dict[str, float | str]]:
    """Yield a row for each number of updates, view and feature level; print the means of each view."""
    state = prepare_training(config)
    trained = replace(state, samples=select(state.samples, slice(HELD_OUT, None)))
    held_out = replace(state, samples=select(state.samples, slice(HELD_OUT)))
    (t_star,) = config.t_star
    for update in range(1, max(updates) + 1):
        training_step(trained, update - 1)
        if update not in updates:
            continue
        metrics = evaluate(trained, held_out, state.pool.all_heads(0), t_star)
        for name, values in metrics.items():
            means = "  ".join(f"{view} {row.mean():.3f}" for view, row in zip(state.views, values, strict=True))
            print(f"t* {t_star:3}  {update:4} updates  {name:12}  {means}  max {values.max():.3f}", flush=True)
        for index, view in enumerate(state.views):
            for column, level in enumerate(state.feature_indices):
                row = {name: round(values[index, column].item(), 4) for name, values in metrics.items()}
                yield {"t_star": t_star, "updates": update, "view": view, "level": level} | row


def select(samples: TeacherSamples, rows: slice) -> TeacherSamples:
    """Some of the teacher's samples."""
    rows = slice(*rows.indices(len(samples.x0)))
    noise = samples.x_T[rows]
    return TeacherSamples(samples.prompts[rows], samples.embeds[rows], samples.empty_embeds, samples.x0[rows], noise)


@torch.no_grad()
def evaluate(trained: TrainState, held_out: TrainState, panel: Panel, t_star: int) -> dict[str, torch.Tensor]:
    """Both metrics of every head, (V, L)."""
    seen, unseen, fake = [], [], []
    for seed in range(BATCHES):
        batch = sample_batch(held_out)
        x0 = predict_x0(held_out.student, held_out.scheduler, batch.x_T, batch.fake_embeds)
        real = extract_features(held_out, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, seed)
        unseen.append(mean_logits(panel, real))
        fake.append(
            mean_logits(panel, extract_features(held_out, x0, batch.fake_embeds, batch.fake_noise, t_star, seed))
        )
        batch = sample_batch(trained)
        real = extract_features(trained, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, seed)
        seen.append(mean_logits(panel, real))
    seen, unseen, fake = (
        [torch.cat(cells) for cells in zip(*batches, strict=True)] for batches in (seen, unseen, fake)
    )
    shape = panel.indices.shape[:2]
    return {"separation": higher(unseen, fake).view(shape), "memorization": higher(seen, unseen).view(shape)}


def mean_logits(panel: Panel, views: list[ViewFeatures]) -> list[torch.Tensor]:
    """Each head's mean logit of every image or crop, ordered by view."""
    sizes = [len(feature) for view in views for feature in view.maps]
    return [logits.view(size, -1).mean(1) for logits, size in zip(panel.score(views), sizes, strict=True)]


def higher(first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """Each head's fraction of pairs in which the first gets the higher logit."""
    return torch.stack([(a[:, None] > b).float().mean() for a, b in zip(first, second, strict=True)])


if __name__ == "__main__":
    main()
