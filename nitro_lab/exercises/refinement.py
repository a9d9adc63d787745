"""Checks of the exercises of notebook 04. Each takes an answer and says "Right", with the reason, or gives a hint."""

from collections.abc import Mapping, Sequence

import torch

from nitro_lab.exercises import UNANSWERED
from nitro_lab.exercises.scheduler import schedule
from nitro_lab.stages import LAWS, steps_in_words
from nitro_lab.studies.refinement import Change, Rows


def passes_of_a_batch(answer: float | None, steps: int = 4) -> str:
    """Exercise 1: mean passes of the student for a fake, when any step of a schedule is equally likely."""
    if answer is None:
        return UNANSWERED
    wanted = (steps + 1) / 2
    if abs(answer - wanted) < 0.01:
        return f"Right: the k-th prediction takes k passes, and the mean of 1 to {steps} is {wanted}."
    if abs(answer - (wanted - 1)) < 0.01:
        return "Not yet: those are the passes of the rollout. The prediction that is judged takes one more."
    return "Not yet: how many passes does the k-th prediction take? Then the mean over k."


def one_step_share(answer: float | None, most: int = 4, draws: int = 20000, tolerance: float = 0.015) -> str:
    """Exercise 2: how often the law "any schedule" trains a first step at stage `most`; checked by drawing."""
    if answer is None:
        return UNANSWERED
    generator = torch.Generator().manual_seed(0)
    turns = [LAWS["any schedule"](most, generator) for _ in range(draws)]
    wanted = sum(turn.k == 1 for turn in turns) / draws
    if abs(answer - wanted) <= tolerance:
        return f"Right: (1 + 1/2 + … + 1/{most}) / {most}; {draws:,} draws give {wanted:.3f}."
    if abs(answer - sum(turn.steps == 1 for turn in turns) / draws) <= tolerance:
        return "Not yet: longer schedules have a first step too."
    return (
        f"Not yet: the schedule has 1 to {most} steps, equally likely; then each of its steps is. When is it the first?"
    )


def shared_level(answer: int | None, shift: int = 250) -> str:
    """Exercise 3: the true timestep of the second step of two, which is told the same in another schedule."""
    if answer is None:
        return UNANSWERED
    (_, second), (_, told) = schedule(shift, 2)
    if answer == second:
        return (
            f"Right: t = {second}, told {told}: it is the third of four steps too. What differs is what was before it."
        )
    if answer == told:
        return "Not yet: that is what the UNet is told. How noisy is the latent?"
    return "Not yet: look at the titles of the columns in section 1, and at the table of notebook 01."


def most_layout(answer: int | None, changes: Sequence[Change]) -> str:
    """Exercise 4: the step (from 2) that changes most of the layout, in mean square."""
    if answer is None:
        return UNANSWERED
    wanted = 2 + max(range(len(changes)), key=lambda index: changes[index].coarse)
    if answer == wanted:
        return f"Right: step {wanted}, {changes[wanted - 2].coarse:.4f} in mean square below the dotted line."
    return "Not yet: multiply the last two columns of the table in section 2."


def steps_for_budget(answer: int | None, exams: Mapping[str, Rows], model: str = "mini", passes: int = 3) -> str:
    """Exercise 5: the number of steps with the smallest distance among those of at most so many passes."""
    if answer is None:
        return UNANSWERED
    within = [row for row in exams[model] if int(row["calls"]) <= passes]
    best = min(within, key=lambda row: float(row["FD"]))
    if answer == int(best["steps"]):
        return f"Right: {steps_in_words(int(best['steps']))}, Fréchet distance {float(best['FD']):.2f}."
    if answer > passes:
        return f"Not yet: that takes more than {passes} passes."
    return "Not yet: read the model's row in the table of section 5. More steps are not always better."
