"""Adversarial distillation: a pool of critics sharpens a one-step student (arXiv 2412.02030, section 3)."""

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import AS_CONFIGURED, Ideas
from nitro_lab.judging import Judgement, add_up, judge
from nitro_lab.randomness import chance_from, random_below
from nitro_lab.stages import Turn, draw_turn, stage_at
from nitro_lab.studio import Training, prepare


@dataclass(frozen=True)
class Report:
    """What one step did. V views, L judged feature levels, n heads a cell.

    turn: which step of which schedule the student took.
    critic_loss, student_loss: means over the panel; the student's is nan where only the critics learned.
    margins: (V, L, n), mean logit of reals minus that of fakes, before the step; slots: (V, L, n), who was drawn.
    refreshed: (k, 4), who was thrown out after it. gradient_norm: of the student, before clipping;
    critic_gradient_norm: of all the panel's heads together.
    """

    step: int
    turn: Turn
    noise_level: int
    critic_loss: float
    student_loss: float
    margins: torch.Tensor
    slots: torch.Tensor
    refreshed: torch.Tensor
    gradient_norm: float
    critic_gradient_norm: float
    seconds: float


def distill(config: DistillConfig, folder: Path | None = None, ideas: Ideas = AS_CONFIGURED) -> Iterator[Report]:
    """Train a student; a report after each step. In `folder` a run that was cut goes on where its checkpoint is."""
    yield from train(prepare(config, folder, ideas))


def train(training: Training) -> Generator[Report, None, None]:
    """Run to the last step. Closing the generator saves first, so that the next run goes on from there.

    Raises:
        FloatingPointError: if a loss or gradient is no number; the last checkpoint is from before that.
    """
    config, snapshot = training.config, training.snapshot
    for step in range(snapshot.load(), config.steps):
        report = one_step(training, step)
        try:
            yield report
        except GeneratorExit:
            save(training, step + 1)
            raise
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save(training, step + 1)


def save(training: Training, step: int) -> None:
    """Write the checkpoint, in one process."""
    if training.accelerator.is_main_process:
        training.snapshot.save(step)


def one_step(training: Training, step: int) -> Report:
    """Draw a noise level and a panel, judge, let critics and student learn, refresh the pool."""
    with chance_from(training.generator):
        return take_turn(training, step)


def take_turn(training: Training, step: int) -> Report:
    """The step itself, in which global chance is already repeatable."""
    start = time.perf_counter()
    config, pool, accelerator = training.config, training.pool, training.accelerator
    noise_level = random_below(len(config.t_star), training.generator)
    panel = pool.draw(noise_level, config.per_cell)
    learned = step - config.warm_up  # steps in which the student could have learned
    student_learns = learned >= 0 and learned % config.student_every == 0
    critics_learn = learned < 0 or learned % config.critic_every == 0
    training.optimizer.zero_grad()
    most = stage_at(step, config.stages, config.stage_steps)
    turn = draw_turn(most, config.step_law, config.one_step_share, training.generator)
    judgement = add_up([judge(training, panel, student_learns, turn) for _ in range(config.accumulation)], accelerator)
    norm = gather_gradient(training) if student_learns else 0.0
    critic_norm = torch.nn.utils.get_total_norm(judgement.gradients).item()
    check_numbers(training, step, judgement, norm, critic_norm)
    if critics_learn:
        panel.learn(judgement.gradients, config.critic_rate, config.critic_betas)
        pool.note(panel, judgement.margins)
    if student_learns:
        for group in training.optimizer.param_groups:
            group["lr"] = config.student_rate * min(1.0, (learned + 1) / max(1, config.warm_up))
        training.optimizer.step()
        training.average.update_parameters(training.student)
    return Report(
        step=step + 1,
        turn=turn,
        noise_level=noise_level,
        critic_loss=judgement.critic_loss,
        student_loss=judgement.student_loss if student_learns else float("nan"),
        margins=judgement.margins,
        slots=panel.slots,
        refreshed=pool.refresh(config.refresh),
        gradient_norm=norm,
        critic_gradient_norm=critic_norm,
        seconds=time.perf_counter() - start,
    )


def gather_gradient(training: Training) -> float:
    """Average the student's gradient over processes and clip it. Returns its norm before clipping."""
    weights = list(training.student.parameters())
    for weight in weights:
        if weight.grad is not None:
            weight.grad = training.accelerator.reduce(weight.grad, "mean")
    return torch.nn.utils.clip_grad_norm_(weights, training.config.clip).item()


def check_numbers(training: Training, step: int, judgement: Judgement, norm: float, critics: float) -> None:
    """Stop before a loss or gradient that is no number reaches any weight."""
    path = training.snapshot.path
    if not math.isfinite(judgement.critic_loss + judgement.student_loss + norm + critics):
        raise FloatingPointError(
            f"Step {step + 1}: critic loss {judgement.critic_loss}, student loss {judgement.student_loss}, gradient "
            f"norm {norm} (student) and {critics} (critics). Nothing was changed by this step; "
            f"{'the last checkpoint is ' + str(path) if path.exists() else 'there is no checkpoint yet'}. "
            "Use a new folder with a lower student_rate or critic_rate, or another objective: linear has no bound."
        )
