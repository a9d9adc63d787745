"""Exercises of notebook 05."""

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch.nn.functional import softplus

from nitro_lab.discriminators.checks import check_head
from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss
from nitro_lab.discriminators.selection import RefreshPolicy, check_refreshed
from nitro_lab.discriminators.zoo import ZOO
from nitro_lab.randomness import seeded
from nitro_lab.training.parts import HeadFactory
from workbook.exercises.checker import NO_ANSWER, Feedback, accept, check, reject

__all__ = ["batch_head", "color_head", "refresh_most_updated", "runs_left", "shown_differences", "smoothed_loss"]


def color_head(head: HeadFactory | None) -> Feedback:
    """Exercise 1: a head that sees which features there are, but not where."""
    if head is None:
        return NO_ANSWER
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn((6, 16, 8, 8), generator=generator)
    try:
        check_head(head, feature, torch.zeros(6, 4))
    except ValueError as error:
        return reject(str(error))
    module = seeded(0, lambda: head(16))
    shuffled = feature.flatten(2)[:, :, torch.randperm(64, generator=generator)].view_as(feature)
    with torch.no_grad():  # sorted, because a map of logits may be shuffled, too
        logits, moved, changed = (module(x).flatten(1).sort(1).values for x in (feature, shuffled, 2 * feature + 1))
    if not torch.allclose(logits, moved, rtol=1e-4, atol=1e-5):
        return reject("shuffling the pixels changes its logits. Use means over the map, or 1×1 convolutions only.")
    if torch.allclose(logits, changed, rtol=1e-4, atol=1e-5):
        return reject("other feature values do not change its logits, so it does not see color either.")
    return accept("texture is still seen where one feature describes a neighborhood: 3×3 latents at feature level 0.")


def refresh_most_updated(policy: RefreshPolicy | None) -> Feedback:
    """Exercise 2: a refresh policy for the heads with the most updates."""
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
    """Exercise 3: the non-saturating loss with one-sided label smoothing (Salimans et al. 2016, section 3.4)."""
    if loss is None:
        return NO_ANSWER
    real, fake, plain = torch.linspace(-2, 3, 7), torch.linspace(-3, 2, 7), GAN_LOSSES["non_saturating"]
    try:
        answer, generator_loss = loss.discriminator(real, fake).item(), loss.generator(fake).item()
    except Exception as error:
        return reject(f"{type(error).__name__}: {error}; give a GANLoss(discriminator, generator).")
    if not math.isclose(generator_loss, plain.generator(fake).item(), rel_tol=1e-4):
        return reject("the generator's loss is not smoothed: it stays non_saturating_g_loss.")
    cross_entropy = 0.9 * softplus(-real).mean() + 0.1 * softplus(real).mean() + softplus(fake).mean()
    right = f"the best logit of a real sample is now {math.log(9):.2f} instead of infinity."
    hints = {plain.discriminator(real, fake).item(): "the label of real samples is still 1."}
    otherwise = "real: 0.9 · softplus(−D) + 0.1 · softplus(D). The label of fakes stays 0."
    return check(answer, cross_entropy.item(), right, hints, otherwise, tolerance=1e-4)


def batch_head(answer: str | None) -> Feedback:
    """Exercise 4: which head of the zoo compares the images of a batch."""
    mixing = next(name for name, head in ZOO.items() if getattr(head, "mixes_samples", False))
    right = "so it notices a student that always generates the same image; a head that sees one image at a time cannot."
    otherwise = "it scores each image by itself; which class sets mixes_samples?"
    return check(answer, mixing, right, {}, otherwise, choices=ZOO)


def runs_left(answer: int | None) -> Feedback:
    """Exercise 5: runs that a comparison of 7 variants at 5 seeds still has to make, with 12 on disk."""
    hints = {35: "runs that are on disk are not made again.", 18: "the reference is a variant, too."}
    return check(answer, 23, "7 · 5 − 12.", hints, "one run for each variant at each seed, less those on disk.")


def shown_differences(answer: Sequence[str] | None, summary: pd.DataFrame, metrics: Sequence[str]) -> Feedback:
    """Exercise 6: metrics whose difference is shown, for the second variant of a summary."""
    rows = summary.loc[summary.index.unique("variant")[1]].loc[list(metrics)]
    shown = set(rows.index[rows["difference"].abs() > rows["difference_half"]])
    right = f"{len(shown)} of {len(metrics)}. Of 20 differences, one is shown by chance alone; repeat with new seeds."
    return check(answer, shown, right, {}, "find those with |difference| above the half interval.", choices=metrics)
