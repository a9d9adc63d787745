"""Adversarial losses: functions of logits of any shape that return their mean loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "GAN_LOSSES",
    "GANLoss",
    "hinge_d_loss",
    "linear_d_loss",
    "linear_g_loss",
    "non_saturating_d_loss",
    "non_saturating_g_loss",
]


@dataclass(frozen=True)
class GANLoss:
    """The losses of both sides: discriminator(real, fake) and generator(fake), which each side minimizes."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]

    @property
    def uninformed_loss(self) -> float:
        """The discriminator's loss when all logits are 0."""
        return self.discriminator(torch.zeros(1), torch.zeros(1)).item()


def linear_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """D(fake) − D(real), as printed in the paper (Wasserstein form, unbounded)."""
    return fake.mean() - real.mean()


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 − D(real)) + max(0, 1 + D(fake)) (Lim and Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def non_saturating_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(real)) − log(1 − σ(D(fake))) (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def linear_g_loss(fake: Tensor) -> Tensor:
    """−D(fake), the generator's loss of the linear and the hinge form."""
    return -fake.mean()


def non_saturating_g_loss(fake: Tensor) -> Tensor:
    """−log σ(D(fake)) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


GAN_LOSSES = {
    "linear": GANLoss(linear_d_loss, linear_g_loss),
    "hinge": GANLoss(hinge_d_loss, linear_g_loss),
    "non_saturating": GANLoss(non_saturating_d_loss, non_saturating_g_loss),
}
