"""Can one head, given time and never thrown out, tell the soft student from the teacher, and after how many updates?

    python benchmarks/one_head.py --csv docs/one_head.csv

For each noise level one head a view and feature level learns, on the teacher's samples and fresh fakes of the student,
which itself does not learn. At some numbers of updates each is asked about samples and fakes that none has seen: the
share that it puts on the right side (0.5 is blindness), a whole image or a patch at a time.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from nitro_lab.distill_config import DistillConfig
from nitro_lab.judging import draw_batch, judge, look, predict_x0
from nitro_lab.panel import Panel
from nitro_lab.studio import Training, prepare
from nitro_lab.teacher_samples import TeacherSamples

KEPT_BACK = 256  # samples of the teacher that only examine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, nargs="+", default=[3, 10, 30, 100, 300])
    parser.add_argument("--critic-rate", type=float, default=DistillConfig.critic_rate)
    parser.add_argument("--objective", default=DistillConfig.objective)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    config = DistillConfig(objective=options.objective, critic_rate=options.critic_rate, slots=1, per_cell=1)
    training = prepare(config)
    rows = list(study(training, sorted(options.updates)))
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def study(training: Training, updates: list[int]) -> Iterator[dict[str, float]]:
    """A row for each noise level, number of updates, view and feature level; prints the means of each view."""
    config = training.config
    learning = replace(training, samples=part(training.samples, slice(KEPT_BACK, None)))
    examining = replace(training, samples=part(training.samples, slice(KEPT_BACK)))
    for noise_level, t_star in enumerate(config.t_star):
        for update in range(1, updates[-1] + 1):
            panel = training.pool.draw(noise_level)
            judgement = judge(learning, panel, student_learns=False)
            panel.learn(judgement.gradients, config.critic_rate)
            training.pool.note(panel, judgement.margins)
            if update in updates:
                shares = examine(examining, training.pool.draw(noise_level), t_star)
                means = "  ".join(f"{view} {s.mean():.3f}" for view, s in zip(config.views, shares, strict=True))
                print(f"t* {t_star:3}  {update:4} updates  {means}  best {shares.max():.3f}", flush=True)
                for view, levels in zip(config.views, shares.tolist(), strict=True):
                    for level, share in enumerate(levels):
                        yield {"t_star": t_star, "updates": update, "view": view, "level": level, "share": share}


def part(samples: TeacherSamples, rows: slice) -> TeacherSamples:
    """Some of the teacher's samples."""
    return TeacherSamples(samples.prompts[rows], samples.conditioning[rows], samples.empty, samples.x0[rows])


@torch.no_grad()
def examine(training: Training, panel: Panel, t_star: int, rounds: int = 8) -> torch.Tensor:
    """Shares that heads put on the right side of 0, (views, levels), over some batches of what they have not seen."""
    shares = []
    for crops in range(rounds):
        batch = draw_batch(training)
        fakes = predict_x0(training.student, training.scheduler, batch.x_T, batch.fake_told)
        real = sides(panel, look(training, batch.reals, batch.real_told, batch.noise, t_star, crops))
        fake = sides(panel, look(training, fakes, batch.fake_told, batch.noise, t_star, crops))
        shares.append((real + 1 - fake) / 2)
    return torch.stack(shares).mean(0).view(len(training.config.views), -1)


def sides(panel: Panel, maps: list[list[torch.Tensor]]) -> torch.Tensor:
    """Share of images (or patches) that each head takes for real, views first."""
    seen = [len(levels[0]) for levels in maps for _ in levels]
    logits = zip(panel.score(maps), seen, strict=True)
    return torch.stack([(flat.view(count, -1).mean(1) > 0).float().mean() for flat, count in logits])


if __name__ == "__main__":
    main()
