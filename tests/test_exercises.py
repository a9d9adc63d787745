"""Checks of notebook 01's exercises: a right answer passes, a wrong one gets a hint that does not give it away."""

import pytest

from nitro_lab.exercises import scheduler as exercises


def right_reader(x, eps, sigma, sigma_told):
    return x * ((sigma_told**2 + 1) / (sigma**2 + 1)) ** 0.5 - sigma_told * eps


def unscaled_reader(x, eps, sigma, sigma_told):
    return x - sigma_told * eps


def unshifted_reader(x, eps, sigma, sigma_told):
    return x - sigma * eps


def blind_reader(x, eps, sigma, sigma_told):
    return x * 0


RIGHT = [
    (exercises.told_times, [599, 449, 299]),
    (exercises.told_times, (599, 449, 299)),
    (exercises.error_ratio, 14.6146 / 0.6932),
    (exercises.smallest_shift, 4),
    (exercises.read_in_sigma, right_reader),
    (exercises.noise_level, 749),
]
WRONG = [  # check, answer, a word of the hint, what the hint must not say
    (exercises.told_times, [999, 749, 499], "true timesteps", "599"),
    (exercises.told_times, [599, 449, 300], "first", "299"),
    (exercises.told_times, [599, 449], "3 steps", "299"),
    (exercises.error_ratio, 0.6932 / 14.6146, "other way", "21"),
    (exercises.error_ratio, 14.6490 / 1.2168, "1/√ᾱ", "21"),
    (exercises.error_ratio, 4.0, "before δ", "21"),
    (exercises.smallest_shift, 3, "two steps become the same", "shift 4"),
    (exercises.smallest_shift, 0, "from 1 to num_train_timesteps", "4 works"),
    (exercises.smallest_shift, 250, "smaller one works", "shift 4"),
    (exercises.read_in_sigma, unscaled_reader, "Rescale", "√(σ'² + 1)"),
    (exercises.read_in_sigma, unshifted_reader, "Which clock", "√(σ'² + 1)"),
    (exercises.read_in_sigma, blind_reader, "variance 1", "√(σ'² + 1)"),
    (exercises.noise_level, 374, "told clock", "749"),
    (exercises.noise_level, 999, "does not start there", "749"),
    (exercises.noise_level, 600, "true timesteps", "749"),
]


@pytest.mark.parametrize(("check", "answer"), RIGHT)
def test_right_answers_pass(check, answer):
    assert check(answer).startswith("Right")


@pytest.mark.parametrize(("check", "answer", "hint", "secret"), WRONG)
def test_wrong_answers_get_a_hint(check, answer, hint, secret):
    feedback = check(answer)
    assert feedback.startswith("Not yet")
    assert hint in feedback
    assert secret not in feedback


def test_rounded_timesteps_are_recognised():
    assert "rounded" in exercises.told_times([200, 150, 100], shift=200)


@pytest.mark.parametrize("check", dict.fromkeys(check for check, _ in RIGHT))
def test_no_answer_is_neither_right_nor_wrong(check):
    assert check(None) == exercises.UNANSWERED
