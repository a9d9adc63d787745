"""Exercises of notebook 04."""

from collections.abc import Mapping

import pandas as pd

from workbook.exercises.checker import Feedback, check

__all__ = ["calls_per_fake", "first_step_share", "largest_layout_change", "shared_timestep", "steps_for_budget"]


def calls_per_fake(answer: float | None) -> Feedback:
    """Exercise 1: mean UNet calls per fake, when all four steps of a schedule are equally likely."""
    hints = {1.5: "those are the calls without gradients. The prediction that the discriminator sees takes one more."}
    otherwise = "how many calls does the k-th prediction take? Then take the mean over k."
    return check(answer, 2.5, "the k-th prediction takes k calls, and the mean of 1 to 4 is 2.5.", hints, otherwise)


def first_step_share(answer: float | None) -> Feedback:
    """Exercise 2: the fraction of batches that train a first step with "any_schedule" at stage 4, to 2 percent."""
    otherwise = "all lengths from 1 to 4 are equally likely, then all steps of that length. How often is it the first?"
    hints = {0.25: "longer schedules have a first step too."}
    return check(answer, 25 / 48, "(1 + 1/2 + 1/3 + 1/4) / 4 = 0.521.", hints, otherwise, tolerance=0.02)


def shared_timestep(answer: int | None) -> Feedback:
    """Exercise 3: the timestep of the last of two steps, which is that of the third of four steps, too."""
    right = "at t = 499 (shifted: 124) both schedules call the UNet; what happened before differs."
    hints = {124: "this is the shifted timestep. What is the noise level of the latent?"}
    return check(answer, 499, right, hints, "compare the column titles in section 1 with notebook 01.")


def largest_layout_change(answer: int | None, changes: pd.DataFrame) -> Feedback:
    """Exercise 4: the step (from 2) with the largest mean square change of layout, in a table of `change_table`."""
    layout = (changes["mean square"] * changes["layout"]).tolist()
    right = f"the mean square change of the layout is {max(layout):.4f}."
    return check(answer, 2 + layout.index(max(layout)), right, {}, "multiply the last two columns in section 2.")


def steps_for_budget(answer: int | None, tables: Mapping[str, pd.DataFrame]) -> Feedback:
    """Exercise 5: the number of steps of `mini` with the smallest Fréchet distance within three UNet calls."""
    rows = tables["mini"].query("calls <= 3").set_index("steps")
    right, otherwise = f"the distance is {rows.FD.min():.2f}.", "read the row of mini in section 5; more can be worse."
    return check(answer, rows.FD.idxmin(), right, {4: "four steps take four calls, not three."}, otherwise)
