"""What critics and student want: each objective is a pair of small functions of logits of any shape."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Objective:
    """critic(real, fake) and student(fake): logits to the mean loss that each side lowers."""

    critic: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    student: Callable[[torch.Tensor], torch.Tensor]

    @property
    def blind_loss(self) -> float:
        """The critics' loss when they know nothing and all logits are 0."""
        return self.critic(torch.zeros(1), torch.zeros(1)).item()


def linear_critic(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """The difference of logits, as the paper prints it (Wasserstein form, without a bound)."""
    return fake.mean() - real.mean()


def hinge_critic(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Logits beyond ±1 on the right side cost nothing (Lim and Ye 2017). 2 when nothing is learned."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def cross_entropy_critic(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Goodfellow et al. 2014, eq. 1. 2·ln 2 = 1.386 when nothing is learned."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def raise_logits(fake: torch.Tensor) -> torch.Tensor:
    """The student of the linear and the hinge form."""
    return -fake.mean()


def non_saturating_student(fake: torch.Tensor) -> torch.Tensor:
    """−log D(fake) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


OBJECTIVES = {
    "linear": Objective(linear_critic, raise_logits),
    "hinge": Objective(hinge_critic, raise_logits),
    "non-saturating": Objective(cross_entropy_critic, non_saturating_student),
}
