"""Adversarial losses, and regularizers of the discriminators.

Losses are functions of logits of any shape that return their mean. Regularizers get a `GANBatch`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nitro_lab.discriminators.inputs import ViewFeatures, as_list
from nitro_lab.sampling import PromptEmbeds

__all__ = [
    "GAN_LOSSES",
    "GANBatch",
    "GANLoss",
    "approximate_r1",
    "gradient_penalty",
    "hinge_d_loss",
    "linear_d_loss",
    "linear_g_loss",
    "non_saturating_d_loss",
    "non_saturating_g_loss",
    "relativistic_d_loss",
    "relativistic_g_loss",
]


@dataclass(frozen=True)
class GANLoss:
    """The losses of both sides, discriminator(real, fake) and generator(real, fake), which each side minimizes.

    Logits of real and fake samples have the same shape: the i-th of each are of the same head, crop and place.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]

    @property
    def uninformed_loss(self) -> float:
        """The discriminator's loss when all logits are 0."""
        return self.discriminator(torch.zeros(1), torch.zeros(1)).item()


@dataclass(frozen=True)
class GANBatch:
    """What regularizers of the heads and further losses of the student may use; B images, V views, L feature levels.

    Attributes:
        real, fake: features by view; the fakes' carry the gradient to the student, if it is updated in this step.
        real_logits, fake_logits: of each cell, (n, all logits of a head), ordered by view, then by feature level.
        real_x0, fake_x0: (B, C, H, W) latents; of the same noise and prompts with the pairing "same_noise".
        real_embeds, fake_embeds: of the prompts.
        score: the sampled heads, from features by view to logits of each cell.
        extract: (x0, embeds) -> features by view, at the same noise, t* and crops as the reals.
        generator: source of all further randomness.
    """

    real: list[ViewFeatures]
    fake: list[ViewFeatures]
    real_logits: list[Tensor]
    fake_logits: list[Tensor]
    real_x0: Tensor
    fake_x0: Tensor
    real_embeds: PromptEmbeds
    fake_embeds: PromptEmbeds
    score: Callable[[Sequence[ViewFeatures]], list[Tensor]]
    extract: Callable[[Tensor, PromptEmbeds], list[ViewFeatures]]
    generator: torch.Generator


def linear_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """D(fake) − D(real), as printed in the paper (Wasserstein form, unbounded)."""
    return fake.mean() - real.mean()


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 − D(real)) + max(0, 1 + D(fake)) (Lim and Ye 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def non_saturating_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(real)) − log(1 − σ(D(fake))) (Goodfellow et al. 2014, eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def relativistic_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(real) − D(fake)), pair by pair (Jolicoeur-Martineau 2019; R3GAN, Huang et al. 2024, eq. 2)."""
    return F.softplus(fake - real).mean()


def linear_g_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−D(fake), the generator's loss of the linear and the hinge form."""
    return -fake.mean()


def non_saturating_g_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(fake)) (Goodfellow et al. 2014, section 3)."""
    return F.softplus(-fake).mean()


def relativistic_g_loss(real: Tensor, fake: Tensor) -> Tensor:
    """−log σ(D(fake) − D(real)), pair by pair."""
    return F.softplus(real - fake).mean()


GAN_LOSSES = {
    "linear": GANLoss(linear_d_loss, linear_g_loss),
    "hinge": GANLoss(hinge_d_loss, linear_g_loss),
    "non_saturating": GANLoss(non_saturating_d_loss, non_saturating_g_loss),
    "relativistic": GANLoss(relativistic_d_loss, relativistic_g_loss),
}


def gradient_penalty(batch: GANBatch, weight: float = 1.0, real: bool = True, fake: bool = False) -> Tensor:
    """R1 (`real`) and R2 (`fake`): weight/2 · E‖∂D/∂f‖² at the heads' features f, summed over heads.

    Mescheder et al. 2018, eq. 9 and 10; of features, not pixels, as in ADD (Sauer et al. 2023, section 3.2). A head's D
    of an image or crop is the mean of its logits.
    """
    penalties = [_squared_gradients(batch, views) for on, views in ((real, batch.real), (fake, batch.fake)) if on]
    return weight / 2 * torch.stack(penalties).sum()


def _squared_gradients(batch: GANBatch, views: Sequence[ViewFeatures]) -> Tensor:
    """E‖∂D/∂f‖² summed over heads."""
    views = [view.changed(lambda x: x.detach().requires_grad_()) for view in views]
    cells = [as_list(maps) for view in views for maps in view.maps]
    inputs = [x for maps in cells for x in maps]
    logits, penalty = batch.score(views), inputs[0].new_zeros(())
    for place in range(len(logits[0])):  # the heads of a cell share their input: one at a time
        scores = [len(maps[0]) * values[place].mean() for maps, values in zip(cells, logits, strict=True)]
        total = torch.stack(scores).sum()
        for gradient in torch.autograd.grad(total, inputs, create_graph=True, materialize_grads=True):  # 0 if not used
            penalty = penalty + gradient.square().sum() / len(gradient)
    return penalty


def approximate_r1(batch: GANBatch, weight: float = 1.0, sigma: float = 0.01) -> Tensor:
    """Finite-difference R1: weight · E(D(x0) − D(x0 + σ·ε))², summed over heads (APT, Lin et al. 2025, eq. 4)."""
    noise = torch.randn(batch.real_x0.shape, generator=batch.generator, device=batch.generator.device)
    with torch.no_grad():
        perturbed = batch.extract(batch.real_x0 + sigma * noise.to(batch.real_x0), batch.real_embeds)
    pairs = zip(batch.real_logits, batch.score(perturbed), strict=True)
    return weight * torch.stack([len(d) * F.mse_loss(p, d) for d, p in pairs]).sum()
