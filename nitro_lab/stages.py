"""Bottom-up refinement: how many steps the student learns to take, and which of them at this moment.

At stage K the student learns steps of schedules of up to K steps. The paper adds 2, 3 and 4 steps one by one to a
one-step student (arXiv 2412.02030, "Bottom-up refinement"); which step of which schedule a batch trains it does not
say, so that is a law of one's choice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nitro_lab.randomness import random_below


@dataclass(frozen=True)
class Turn:
    """What a batch trains: the k-th prediction (from 1) of a schedule of so many steps."""

    steps: int = 1
    k: int = 1


ONE_STEP = Turn()


def steps_in_words(steps: int) -> str:
    """1 step, 2 steps."""
    return f"{steps} step{'s' if steps != 1 else ''}"


def any_step(most: int, generator: torch.Generator) -> Turn:
    """Any step of the longest schedule."""
    return Turn(most, 1 + random_below(most, generator))


def last_step(most: int, generator: torch.Generator) -> Turn:
    """The last step of the longest schedule."""
    return Turn(most, most)


def any_schedule(most: int, generator: torch.Generator) -> Turn:
    """Any schedule up to the longest, any step of it; the first step comes most often, since all schedules have it."""
    return any_step(1 + random_below(most, generator), generator)


LAWS: dict[str, Callable[[int, torch.Generator], Turn]] = {
    "any schedule": any_schedule,
    "any step": any_step,
    "last step": last_step,
}


def stage_at(step: int, stages: Sequence[int], stage_steps: int) -> int:
    """K, the most steps that the student learns to take at a training step (from 0); the last stage has no end."""
    return stages[min(step // stage_steps, len(stages) - 1)]


def draw_turn(most: int, law: str, one_step_share: float, generator: torch.Generator) -> Turn:
    """What one batch trains at stage `most`: one step in this share of batches, else what the law draws."""
    if most == 1:
        return ONE_STEP
    if torch.rand((), generator=generator, device=generator.device).item() < one_step_share:
        return ONE_STEP
    return LAWS[law](most, generator)
