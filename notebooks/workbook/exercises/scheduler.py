"""Exercises of notebook 01."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbook.exercises.checker import Feedback, check

__all__ = ["error_ratio", "noise_level", "shifted_timesteps", "smallest_shift", "x0_from_sigma"]


def shifted_timesteps(answer: Sequence[int] | None) -> Feedback:
    """Exercise 1: the shifted timesteps of three steps at shift 600."""
    hints = {(999, 749, 499): "these are the latent's timesteps. Which does the UNet get at each of them?"}
    otherwise = "find the three unshifted timesteps first (section 2), then shift each of them and round down."
    return check(answer, (599, 449, 299), "floor(t · 600 / 1000) of 999, 749 and 499.", hints, otherwise)


def error_ratio(answer: float | None) -> Feedback:
    """Exercise 2: how many times smaller an error in ε becomes in x0 at timestep 249 than at 999, to 1 percent."""
    hints = {0.0474: "you divided the other way round.", 12.04: "this is the ratio of 1/√ᾱ; ε has another factor, too."}
    otherwise = "write x0 with ε and with ε + δ, and find the factor of δ at both timesteps."
    return check(answer, 21.08, "σ falls from 14.61 to 0.69, so 21.1 times.", hints, otherwise, tolerance=0.01)


def smallest_shift(answer: int | None) -> Feedback:
    """Exercise 3: the smallest shift at which four steps have different shifted timesteps."""
    hints = dict.fromkeys((1, 2, 3), "at this shift, two shifted timesteps are equal.")
    right = "the shifted timesteps are 3, 2, 1 and 0; at shift 3, two of them are equal."
    return check(answer, 4, right, hints, "try smaller shifts, from 1 upwards. Which is the first without duplicates?")


def x0_from_sigma(answer: Callable[[Tensor, Tensor, float, float], Tensor] | None) -> Feedback:
    """Exercise 4: x0 in the σ convention, as a function (x, eps, sigma, shifted_sigma) -> x0."""
    x, eps, sigma, shifted = torch.tensor(3.0), torch.tensor(0.5), 4.082, 0.541  # at timesteps 749 and 187
    x0 = (x * ((shifted**2 + 1) / (sigma**2 + 1)) ** 0.5 - shifted * eps).item()
    hints = {
        (x - shifted * eps).item(): "x has the scale of σ, but σ' is subtracted. Rescale x first.",
        (x - sigma * eps).item(): "this is x0 without a shift. Which of the two σ belongs to x0's formula?",
    }
    given = None if answer is None else answer(x, eps, sigma, shifted)
    right = "x' = x·√(σ'² + 1) / √(σ² + 1), then x0 = x' − σ'·ε."
    otherwise = "divide x by √(σ² + 1) for variance 1, rescale it to σ', then subtract the noise."
    return check(given, x0, right, hints, otherwise, tolerance=1e-4)


def noise_level(answer: int | None) -> Feedback:
    """Exercise 5: the timestep to which image-to-image adds noise, at shift 500 with 4 steps and strength 0.75."""
    hints = dict.fromkeys((374, 124), "at this shifted timestep the latent would be cleaner than in training.")
    hints |= dict.fromkeys((999, 499, 249), "this is on the schedule, but strength 0.75 does not start there.")
    right = "the first of 999, 749, 499 and 249 is skipped, and the latent is at the unshifted timestep."
    return check(answer, 749, right, hints, "the answer is one of the four unshifted timesteps (section 2).")
