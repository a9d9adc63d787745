"""Checks of the exercises of notebook 03. Each takes an answer and says "Right", with the reason, or gives a hint."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from nitro_lab.exercises import UNANSWERED
from nitro_lab.studies.demography import Rules, never_updated, updates_in_a_life

PAPER = Rules()  # 1 % refresh, one of four heads a cell, four noise levels, 30 cells in each


def panel_size(answer: int | None, rules: Rules = PAPER) -> str:
    """Exercise 1: how many heads learn in one step of the paper's pool, with one drawn a cell."""
    if answer is None:
        return UNANSWERED
    wanted, pool = rules.cells * rules.per_cell, rules.cells * rules.slots * rules.noise_levels
    if answer == wanted:
        return f"Right: {wanted} of {pool}, one for each view and feature level of the one noise level that was drawn."
    hints = {
        wanted * rules.noise_levels: "only one noise level is drawn in a step.",
        wanted * rules.slots: "one of the four heads of a cell is drawn, not all of them.",
        pool: "that is the whole pool. Which cells take part in a step, and with how many heads each?",
    }
    return "Not yet: " + hints.get(answer, "count the views and the feature levels; one noise level a step.")


def blind_losses(hinge: float | None, non_saturating: float | None) -> str:
    """Exercise 2: the critics' loss when they have learned nothing (all logits 0), in two forms."""
    if hinge is None or non_saturating is None:
        return UNANSWERED
    if abs(hinge - 2) > 0.005:
        return "Not yet: hinge is max(0, 1 − real) + max(0, 1 + fake). Put both logits to 0."
    if abs(non_saturating - 2 * math.log(2)) <= 0.005:
        return (
            "Right: 1 + 1 = 2, and ln 2 + ln 2 = 1.386. Whoever sees these numbers for long has critics that are blind."
        )
    if abs(non_saturating - math.log(2)) <= 0.005:
        return "Not yet: hinge is right. ln 2 is the loss of one side; reals and fakes each have theirs."
    return "Not yet: hinge is right. The other is softplus(−real) + softplus(fake), and softplus(0) = ln(1 + e⁰)."


def updates_of_a_life(answer: float | None, rules: Rules = PAPER) -> str:
    """Exercise 3: mean number of updates until a head is thrown out, at the paper's numbers."""
    if answer is None:
        return UNANSWERED
    wanted = updates_in_a_life(rules)
    if abs(answer / wanted - 1) <= 0.02:
        return f"Right: it lives {1 / rules.refresh:.0f} steps, and learns in one of {1 / rules.drawn:.0f}."
    if abs(answer * rules.refresh - 1) < 0.02:
        return "Not yet: so many steps it lives. In what share of them is it drawn?"
    if min(abs(answer / (wanted * n) - 1) for n in (rules.noise_levels, rules.slots / rules.per_cell)) < 0.02:
        return "Not yet: two things must happen: its noise level is drawn, and in its cell this very head is."
    return "Not yet: how many steps does it live, and in what share of them is it drawn (section 3)?"


def newcomers(answer: float | None, rules: Rules = PAPER) -> str:
    """Exercise 4: share of a panel's heads that were never updated before, at the paper's numbers."""
    if answer is None:
        return UNANSWERED
    wanted = never_updated(rules)
    if abs(answer - wanted) <= 0.004:
        return (
            f"Right: f / (f + (1−f)·p) = {wanted:.1%}. One in {1 / wanted:.0f} of those who judge the student judges "
            "for the first time, with the weights it was born with."
        )
    if abs(answer - rules.refresh) < 0.002:
        return "Not yet: that is the share born in each step. They wait until they are drawn, and gather."
    if abs(answer / 100 - wanted) <= 0.004:
        return "Not yet: right as a percentage; give a share between 0 and 1."
    if abs(answer - rules.refresh / rules.drawn) < 0.004:
        return "Not yet: near. A head can also be thrown out while it waits."
    return "Not yet: the draw is blind, so it is the share among all heads alive: u = 0 in section 3's formula."


def patient_refresh(answer: float | None, updates: float = 100, rules: Rules = PAPER) -> str:
    """Exercise 5: the refresh rate at which a life has so many updates on average, with one head drawn a cell."""
    if answer is None:
        return UNANSWERED
    wanted = rules.drawn / updates
    if answer > 0 and abs(answer / wanted - 1) <= 0.02:
        return (
            f"Right: p/f = {updates:g} at f = {wanted:.4%}, {rules.refresh / wanted:.0f} times slower than the paper's."
        )
    if answer > 0 and abs(answer / 100 / wanted - 1) <= 0.02:
        return "Not yet: right as a percentage; give a share between 0 and 1."
    return "Not yet: solve p/f = " + f"{updates:g} for f; p is the chance of a head to be drawn in a step."


def blur_watcher(answer: int | None, response: np.ndarray, damages: Sequence[str], t_star: Sequence[int]) -> str:
    """Exercise 6: the noise level t* whose cells answer blur most, on average over views and feature levels.

    Args:
        response: (damages, noise levels, views, feature levels).
    """
    if answer is None:
        return UNANSWERED
    strength = np.abs(response[list(damages).index("blur")]).mean((1, 2))
    means: Mapping[int, float] = dict(zip(t_star, strength.tolist(), strict=True))
    if answer not in means:
        return f"Not yet: choose one of the noise levels, {', '.join(map(str, t_star))}."
    wanted = max(means, key=lambda t: means[t])
    numbers = ", ".join(f"{value:.2f} at {t}" for t, value in means.items())
    if answer == wanted:
        return f"Right: mean size of the answers {numbers}."
    return f"Not yet: t* = {answer} answers with {means[answer]:.2f} spreads on average; another with more."
