"""Can one head, given time and never thrown out, tell the soft student from the teacher, and after how many updates?

    python benchmarks/one_head.py --updates 10 30 100 300 --csv docs/one_head.csv

For each noise level one head a view and feature level learns, on the teacher's samples and fresh fakes of the student,
which itself does not learn. At some numbers of updates each is asked about images (or patches) that none has seen:

told_apart  share of pairs (sample of the teacher, fake) in which the sample is rated higher; 0.5 is blindness
by_heart    share of pairs (sample that it learned from, one that it did not) in which the former is rated higher;
            0.5 says that it has learned no sample by heart
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from nitro_lab.distill_config import DistillConfig
from nitro_lab.judging import draw_batch, judge, look
from nitro_lab.panel import Panel
from nitro_lab.sampling import predict_x0
from nitro_lab.studio import Training, prepare
from nitro_lab.teacher_samples import TeacherSamples

KEPT_BACK = 256  # samples of the teacher that only examine
ROUNDS = 16  # batches of an examination


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[10, 30, 100, 300])
    parser.add_argument("--t-star", type=int, nargs="+", default=DistillConfig.t_star)
    parser.add_argument("--critic-rate", type=float, default=DistillConfig.critic_rate)
    parser.add_argument("--objective", default=DistillConfig.objective)
    parser.add_argument("--reals", type=int, default=DistillConfig.reals)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    settings = {"t_star": tuple(options.t_star), "objective": options.objective, "critic_rate": options.critic_rate}
    rows = list(study(prepare(DistillConfig(slots=1, per_cell=1, reals=options.reals, **settings)), options.updates))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def study(training: Training, updates: list[int]) -> Iterator[dict[str, float | str]]:
    """A row for each noise level, number of updates, view and feature level; prints the means of each view."""
    config, samples = training.config, training.samples
    learning = replace(training, samples=part(samples, slice(KEPT_BACK, None)))
    examining = replace(training, samples=part(samples, slice(KEPT_BACK)))
    for noise_level, t_star in enumerate(config.t_star):
        for update in range(1, max(updates) + 1):
            panel = training.pool.draw(noise_level)
            judgement = judge(learning, panel, student_learns=False)
            panel.learn(judgement.gradients, config.critic_rate)
            training.pool.note(panel, judgement.margins)
            if update in updates:
                marks = examine(learning, examining, training.pool.draw(noise_level), t_star)
                for name, shares in marks.items():
                    means = "  ".join(f"{view} {s.mean():.3f}" for view, s in zip(config.views, shares, strict=True))
                    print(f"t* {t_star:3}  {update:4} updates  {name:10}  {means}  most {shares.max():.3f}", flush=True)
                for v, view in enumerate(config.views):
                    for level in range(shares.shape[1]):
                        row = {name: round(shares[v, level].item(), 4) for name, shares in marks.items()}
                        yield {"t_star": t_star, "updates": update, "view": view, "level": level + 1} | row


def part(samples: TeacherSamples, rows: slice) -> TeacherSamples:
    """Some of the teacher's samples."""
    rows = slice(*rows.indices(len(samples.x0)))
    return TeacherSamples(samples.prompts[rows], samples.conditioning[rows], samples.empty, samples.x0[rows])


@torch.no_grad()
def examine(learned: Training, unseen: Training, panel: Panel, t_star: int) -> dict[str, torch.Tensor]:
    """Both shares of every head, (views, levels)."""
    seen, kept, fake = [], [], []
    for crops in range(ROUNDS):
        batch = draw_batch(unseen)
        fakes = predict_x0(unseen.student, unseen.scheduler, batch.x_T, batch.fake_told)
        kept.append(ratings(panel, look(unseen, batch.reals, batch.real_told, batch.real_noise, t_star, crops)))
        fake.append(ratings(panel, look(unseen, fakes, batch.fake_told, batch.fake_noise, t_star, crops)))
        batch = draw_batch(learned)
        seen.append(ratings(panel, look(learned, batch.reals, batch.real_told, batch.real_noise, t_star, crops)))
    seen, kept, fake = ([torch.cat(parts) for parts in zip(*side, strict=True)] for side in (seen, kept, fake))
    shape = (len(unseen.config.views), -1)
    return {"told_apart": higher(kept, fake).view(shape), "by_heart": higher(seen, kept).view(shape)}


def ratings(panel: Panel, maps: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """Mean logit of each image (or patch) by each head, views first."""
    seen = [len(levels[0]) for levels in maps for _ in levels]
    return [flat.view(count, -1).mean(1) for flat, count in zip(panel.score(maps), seen, strict=True)]


def higher(first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """Share of pairs in which the first is rated higher, for each head."""
    return torch.stack([(a[:, None] > b).float().mean() for a, b in zip(first, second, strict=True)])


if __name__ == "__main__":
    main()
