"""The training loop that all stages share: AdamW, its learning-rate schedule, checkpoints and progress reports."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from nitro_lab.checkpoint import Checkpoint
from tools.miniature.recipes import Recipe

__all__ = ["WARMUP_STEPS", "Progress", "learning_rate_at", "make_optimizer", "optimizer_step", "train_stage"]

WARMUP_STEPS = 100
_DECAY_FRACTION = 0.4  # of the steps


@dataclass(frozen=True)
class Progress:
    """Where a stage is after a step."""

    step: int
    total: int
    loss: float


def train_stage(
    recipe: Recipe,
    stage: str,
    path: Path,
    model: nn.Module,
    generator: torch.Generator,
    batch_loss: Callable[[], torch.Tensor],
    average: AveragedModel | None = None,
) -> Iterator[Progress]:
    """Train a model with the recipe's settings of a stage; interrupted, it resumes from the checkpoint at `path`.

    `batch_loss` samples a batch with `generator` and returns its loss; `average` is updated after each step.
    """
    settings = recipe.settings(stage)
    total, peak = int(settings[f"{stage}_steps"]), settings[f"{stage}_learning_rate"]
    optimizer = make_optimizer(model.train().parameters())
    losses, seconds = torch.zeros(2, total)
    parts = {"model": model, "optimizer": optimizer, "generator": generator, "losses": losses, "seconds": seconds}
    averages = {} if average is None else {"average": average}
    for step in Checkpoint(path, settings, **parts, **averages).steps(total, recipe.checkpointing_steps):
        start = time.perf_counter()
        loss = batch_loss()
        optimizer_step(optimizer, loss, learning_rate_at(peak, step, total))
        if average is not None:
            average.update_parameters(model)
        losses[step], seconds[step] = loss.detach(), time.perf_counter() - start
        yield Progress(step + 1, total, losses[step].item())
    model.eval()


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """Make AdamW without weight decay; `optimizer_step` sets its learning rate."""
    return torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0)


def optimizer_step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, learning_rate: float) -> None:
    """Backpropagate `loss`, clip the gradient norm to 1, and update."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def learning_rate_at(peak: float, step: int, total: int) -> float:
    """Return the rate of a step: linear warm-up, constant, and linear decay to zero over the last 40 % of the steps."""
    return peak * min(1.0, (step + 1) / WARMUP_STEPS, (total - step) / (_DECAY_FRACTION * total))
