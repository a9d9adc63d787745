"""Optimizers of discriminator heads: functions that update rows of parameters in place, each with its own state.

`HeadRows` are lists with one entry per head: its parameters (P,), their gradients, two state tensors (P,), which start
at 0, and its step count, a float32 scalar that the optimizer increments.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import adamw as torch_adamw
from torch.optim import rmsprop as torch_rmsprop

__all__ = ["HeadOptimizer", "HeadRows", "adamw", "clipped", "rmsprop"]


class HeadRows(NamedTuple):
    """What an optimizer updates; see the module's docstring."""

    params: list[Tensor]
    grads: list[Tensor]
    exp_avg: list[Tensor]
    exp_avg_sq: list[Tensor]
    steps: list[Tensor]


HeadOptimizer = Callable[[HeadRows, float], None]  # the second argument is the learning rate


def adamw(
    rows: HeadRows,
    learning_rate: float,
    betas: Sequence[float] = (0.5, 0.99),
    weight_decay: float = 0,
    eps: float = 1e-8,
) -> None:
    """AdamW (Loshchilov and Hutter 2019), the default."""
    buffers: Any = (*rows[:4], [], rows.steps)  # none for AMSGrad's maxima
    options: Any = {"beta1": betas[0], "beta2": betas[1], "weight_decay": weight_decay, "eps": eps}
    options |= {"fused": True, "amsgrad": False, "maximize": False}
    torch_adamw.adamw(*buffers, lr=learning_rate, **options)


def rmsprop(rows: HeadRows, learning_rate: float, alpha: float = 0.99, eps: float = 1e-8) -> None:
    """RMSProp (Tieleman and Hinton 2012), Adam without momentum, as in APT."""
    torch_rmsprop.rmsprop(
        rows.params,
        rows.grads,
        rows.exp_avg_sq,
        [],
        [],
        rows.steps,
        lr=learning_rate,
        alpha=alpha,
        eps=eps,
        weight_decay=0.0,
        momentum=0.0,
        centered=False,
    )


def clipped(optimizer: HeadOptimizer, max_norm: float) -> HeadOptimizer:
    """Clip the gradient of each head to `max_norm` first."""

    def update(rows: HeadRows, learning_rate: float) -> None:
        norms = torch._foreach_norm(rows.grads)
        scales = [(max_norm / (norm + 1e-6)).clamp(max=1.0) for norm in norms]
        optimizer(rows._replace(grads=[g * s for g, s in zip(rows.grads, scales, strict=True)]), learning_rate)

    return update
