"""Exercises of notebook 03. The paper's pool has 480 heads and a refresh rate of 1 %; one head is sampled per cell."""

import math
from collections.abc import Sequence

import numpy as np

from workbook.exercises.checker import Feedback, check

__all__ = ["blur_noise_level", "panel_size", "slower_refresh", "uninformed_losses", "untrained_heads", "updates"]

_PERCENTAGE = "that is right as a percentage; give a fraction between 0 and 1."


def panel_size(answer: int | None) -> Feedback:
    """Exercise 1: heads that are updated in one step."""
    hints = {120: "only one noise level, and one head of each cell, is sampled in a step.", 480: "that is all heads."}
    right = "30 of 480, one for each view and feature level of the sampled noise level."
    return check(answer, 30, right, hints, "count the views and the feature levels.")


def uninformed_losses(hinge: float | None, non_saturating: float | None) -> Feedback:
    """Exercise 2: the discriminator's loss when all logits are 0, in two forms."""
    answer = None if hinge is None or non_saturating is None else (hinge, non_saturating)
    hints = {(2, math.log(2)): "hinge is right; in the other form, ln 2 is the loss of one side only."}
    otherwise = "set both logits to 0 in max(0, 1 − real) + max(0, 1 + fake) and softplus(−real) + softplus(fake)."
    return check(answer, (2, 2 * math.log(2)), "1 + 1 and ln 2 + ln 2.", hints, otherwise, tolerance=0.004)


def updates(answer: float | None) -> Feedback:
    """Exercise 3: mean number of updates of a head until it is re-initialized."""
    hints = {100: "in what fraction of these steps is it sampled?", 25: "it must be sampled in its cell, too."}
    right = "100 steps, and it is sampled in one of 16."
    return check(answer, 6.25, right, hints, "multiply its steps by p (section 3).", tolerance=0.02)


def untrained_heads(answer: float | None) -> Feedback:
    """Exercise 4: fraction of the sampled heads that have never been updated, 0.01 / (0.01 + 0.99 / 16)."""
    hints = {0.01: "that many are re-initialized in each step; they accumulate until they are sampled."}
    hints |= {0.16: "almost: a head can also be re-initialized while it waits.", 13.9: _PERCENTAGE}
    right = "f / (f + (1−f)·p) = 13.9 %, so one in seven scores the student with its initial parameters."
    return check(answer, 0.139, right, hints, "use P(u = 0) of section 3.", tolerance=0.03)


def slower_refresh(answer: float | None) -> Feedback:
    """Exercise 5: the refresh rate at which a head gets 100 updates on average, p/f = 100."""
    return check(answer, 1 / 1600, "p/100, p = 1/16.", {1 / 16: _PERCENTAGE}, "solve p/f = 100 for f.", tolerance=0.02)


def blur_noise_level(answer: int | None, response: np.ndarray, damages: Sequence, t_star: Sequence[int]) -> Feedback:
    """Exercise 6: the noise level with the largest mean absolute response to blur."""
    sizes = np.abs(response[list(damages).index("blur")]).mean((1, 2)).tolist()
    right = ", ".join(f"{size:.2f} at {t}" for size, t in zip(sizes, t_star, strict=True))
    best = t_star[sizes.index(max(sizes))]
    return check(answer, best, right, {}, "another one responds more.", choices=tuple(t_star))
