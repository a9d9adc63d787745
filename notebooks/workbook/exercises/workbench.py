"""Exercises of notebook 05: each answer is code."""

import math
from functools import partial

import torch
from torch import nn
from torch.nn.functional import softplus

from nitro_lab.discriminators.checks import check_head
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.losses import GAN_LOSSES, GANBatch, GANLoss, gradient_penalty
from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.discriminators.selection import RefreshPolicy, check_refreshed
from nitro_lab.randomness import seeded
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.training.parts import GANTerm, HeadFactory
from workbook.exercises.checker import NO_ANSWER, Feedback, accept, check, reject

__all__ = ["batch_head", "color_head", "r1_penalty", "refresh_most_updated", "smoothed_loss"]


def color_head(head: HeadFactory | None) -> Feedback:
    """Exercise 1: a head that sees which features there are, but not where."""
    checked = _checked_head(head)
    if isinstance(checked, Feedback):
        return checked
    module, feature = checked
    shuffled = feature.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))].view_as(feature)
    with torch.no_grad():  # sorted, because a map of logits may be shuffled, too
        logits, moved, changed = (module(x).flatten(1).sort(1).values for x in (feature, shuffled, 2 * feature + 1))
    if not torch.allclose(logits, moved, rtol=1e-4, atol=1e-5):
        return reject("shuffling the pixels changes its logits. Use means over the map, or 1×1 convolutions only.")
    if torch.allclose(logits, changed, rtol=1e-4, atol=1e-5):
        return reject("other feature values do not change its logits, so it does not see color either.")
    return accept("texture is still seen where one feature describes a neighborhood: 3×3 latents at feature level 0.")


def r1_penalty(penalty: GANTerm | None) -> Feedback:
    """Exercise 2: R1, compared with `gradient_penalty` on a pool of which one head of each cell is sampled."""
    if penalty is None:
        return NO_ANSWER
    batch, heads = _small_batch()
    expected = gradient_penalty(batch)
    try:
        answer = penalty(batch)
        value = answer.item()
    except Exception as error:
        return reject(f"{type(error).__name__}: {error}")
    if not answer.requires_grad or torch.autograd.grad(answer, heads, allow_unused=True, retain_graph=True)[0] is None:
        return reject(
            "it has no gradient for the heads, so it trains nothing; pass create_graph=True to autograd.grad."
        )
    right = "one call of autograd.grad for all heads, since no two of them share an input."
    r2 = gradient_penalty(batch, real=False, fake=True)
    hints = {
        2 * expected.item(): "R1 is half of the mean squared norm.",
        4 * expected.item(): "R1 is half of the mean over the images, here 4.",
        8 * expected.item(): "R1 is half of the mean over the images, here 4.",
        expected.item() / 16: "the gradient is of each image's logit, not of their mean: multiply by the 4 images.",
        r2.item(): "this is R2; the gradients must be at batch.real.",
    }
    otherwise = "½ · mean over images of ‖∂D/∂f‖², D the mean of an image's logits, summed over views and levels."
    return check(value, expected.item(), right, hints, otherwise, tolerance=1e-4)


def refresh_most_updated(policy: RefreshPolicy | None) -> Feedback:
    """Exercise 3: a refresh policy for the heads with the most updates."""
    if policy is None:
        return NO_ANSWER
    shape, generator = (2, 3, 4, 2), torch.Generator().manual_seed(0)
    updates, age = (torch.randperm(48, generator=generator).view(shape) for _ in range(2))
    try:
        indices = policy({"age": age, "updates": updates, "created": 47 - age, "logit_gap": age * 0.0}, 5, generator)
        check_refreshed(indices, 5, shape)
    except Exception as error:
        return reject(f"{type(error).__name__}: {error}")
    right = "no head is trained for long, and heads that are sampled rarely stay."
    hints = {(0, 1, 2, 3, 4): "those have the fewest updates; lowest_ranked takes the lowest, so negate."}
    otherwise = "rank the heads by stats['updates'] (not by their age), and let lowest_ranked choose."
    return check(updates[tuple(indices.unbind(1))].sort().values, [43, 44, 45, 46, 47], right, hints, otherwise)


def smoothed_loss(loss: GANLoss | None) -> Feedback:
    """Exercise 4: the non-saturating loss with one-sided label smoothing (Salimans et al. 2016, section 3.4)."""
    if loss is None:
        return NO_ANSWER
    real, fake, plain = torch.linspace(-2, 3, 7), torch.linspace(-3, 2, 7), GAN_LOSSES["non_saturating"]
    try:
        answer, generator_loss = loss.discriminator(real, fake).item(), loss.generator(real, fake).item()
    except Exception as error:
        return reject(f"{type(error).__name__}: {error}; give a GANLoss(discriminator, generator).")
    if not math.isclose(generator_loss, plain.generator(real, fake).item(), rel_tol=1e-4):
        return reject("the generator's loss is not smoothed: it stays non_saturating_g_loss.")
    cross_entropy = 0.9 * softplus(-real).mean() + 0.1 * softplus(real).mean() + softplus(fake).mean()
    right = f"the best logit of a real sample is now {math.log(9):.2f} instead of infinity."
    hints = {plain.discriminator(real, fake).item(): "the label of real samples is still 1."}
    otherwise = "real: 0.9 · softplus(−D) + 0.1 · softplus(D). The label of fakes stays 0."
    return check(answer, cross_entropy.item(), right, hints, otherwise, tolerance=1e-4)


def batch_head(head: HeadFactory | None) -> Feedback:
    """Exercise 5: a head that notices a student that always generates the same image."""
    checked = _checked_head(head)
    if isinstance(checked, Feedback):
        return checked
    module, feature = checked
    with torch.no_grad():
        alone, together = (module(x)[:1] for x in (feature[:1].expand_as(feature), feature))
    if not getattr(module, "mixes_samples", False) or torch.allclose(alone, together, rtol=1e-4, atol=1e-6):
        return reject("an image gets the same logits in a batch of its copies as among others; let the head see both.")
    return accept("its logits say how varied a batch is; a head that sees one image at a time cannot know.")


def _checked_head(head: HeadFactory | None) -> Feedback | tuple[nn.Module, torch.Tensor]:
    """The head for 16 channels, and features (6, 16, 8, 8); or what to say if there is none, or it breaks a rule."""
    if head is None:
        return NO_ANSWER
    feature = torch.randn((6, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    try:
        check_head(head, ViewFeatures([feature]))
    except ValueError as error:
        return reject(str(error))
    return seeded(0, lambda: head(16)), feature


def _small_batch() -> tuple[GANBatch, list[torch.Tensor]]:
    """A batch of four images, two views and two feature levels, and the parameters of the heads that score it."""
    generator = torch.Generator().manual_seed(0)
    pool = DiscriminatorPool(partial(ConvHead, width=8), [3, 5], generator, noise_levels=1, views=2, heads_per_cell=2)
    panel = pool.sample(0, 1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def features() -> list[ViewFeatures]:
        return [ViewFeatures([random(4, 3, side, side), random(4, 5, side // 2, side // 2)]) for side in (8, 4)]

    real, fake, x0 = features(), features(), random(4, 4, 8, 8)
    embeds = PromptEmbeds(random(4, 2, 3), random(4, 3), random(4, 6))
    logits = panel.score(real), panel.score(fake)
    batch = GANBatch(real, fake, *logits, x0, x0, embeds, embeds, panel.score, lambda *_: real, generator)
    return batch, panel.parameters()
