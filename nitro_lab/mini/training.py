"""What the stages of training have in common."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

WARM_UP = 100  # steps
FALL = 0.4  # share of the steps


@dataclass(frozen=True)
class Progress:
    """Where a stage stands after a step."""

    step: int
    total: int
    loss: float


def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW without weight decay; `descend` sets its rate."""
    return torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, rate: float) -> None:
    """One clipped step down the gradient of `loss`."""
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimizer.step()


def plateau_rate(peak: float, step: int, total: int) -> float:
    """Warm up, stay, and fall linearly to zero over the last 40 % of the steps."""
    return peak * min(1.0, (step + 1) / WARM_UP, (total - step) / (FALL * total))
