"""Exercises of notebook 01: the right answers are the scheduler's, and wrong ones get a hint without the answer."""

import pytest

from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.exercises import scheduler as exercises
from workbook.exercises.checker import NO_ANSWER


def schedule(shift: int, steps: int, strength: float = 1.0) -> TimestepShiftLCMScheduler:
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(steps, strength=strength)
    return scheduler


def sigma(t: int) -> float:
    alpha = TimestepShiftLCMScheduler().alphas_cumprod[t].item()
    return (1 / alpha - 1) ** 0.5


def right_x0(x, eps, sigma, shifted_sigma):
    return x * ((shifted_sigma**2 + 1) / (sigma**2 + 1)) ** 0.5 - shifted_sigma * eps


SHIFTED = schedule(600, 3).timesteps
NOT_X0 = [lambda x, eps, sigma, shifted: x - shifted * eps, lambda x, eps, sigma, shifted: x - sigma * eps]
CASES = {  # exercise -> right answers, wrong answers, what a hint must not give away
    exercises.shifted_timesteps: ([SHIFTED, SHIFTED.tolist()], [[999, 749, 499], [599, 449, 300], [599, 449]], "299"),
    exercises.error_ratio: ([sigma(999) / sigma(249)], [sigma(249) / sigma(999), 14.6490 / 1.2168, 4.0], "21"),
    exercises.smallest_shift: ([4], [3, 0, 250], "4"),  # tests of the scheduler: four steps at shift 3 are refused
    exercises.x0_from_sigma: ([right_x0], [*NOT_X0, lambda x, *_: x * 0], "√(σ'² + 1)"),
    exercises.noise_level: ([int(schedule(500, 3, 0.75).unshifted_timesteps[0])], [374, 999, 600], "749"),
}


@pytest.mark.parametrize("exercise", CASES)
def test_answers(exercise):
    right, wrong, secret = CASES[exercise]
    assert all(exercise(answer).startswith("Right") for answer in right)
    hints = [exercise(answer) for answer in wrong]
    assert all(hint.startswith("Not yet") and secret not in hint for hint in hints)
    assert len(set(hints)) > 1
    assert exercise(None) == NO_ANSWER
