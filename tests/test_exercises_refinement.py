"""The exercises of notebook 04: right answers are told so with the reason, wrong ones get the hint that fits."""

from fractions import Fraction

import pytest

from nitro_lab.exercises import refinement as exercises
from nitro_lab.exercises.scheduler import UNANSWERED
from nitro_lab.studies.refinement import Change

CHANGES = [Change(0.01, 0.05, 0.2), Change(0.03, 0.01, 0.2), Change(0.02, 0.09, 0.2)]
EXAMS = {"mini": [{"steps": str(n), "calls": str(n), "FD": d} for n, d in zip((1, 2, 3, 4), "5342", strict=True)]}
SHARE = float(sum(Fraction(1, 4 * n) for n in (1, 2, 3, 4)))
CHECKS = {
    exercises.passes_of_a_batch: (2.5, [(1.5, "The prediction that is judged takes one more"), (4, "the mean over k")]),
    exercises.one_step_share: (
        SHARE,
        [(0.25, "longer schedules have a first step too"), (0.9, "When is it the first")],
    ),
    exercises.shared_level: (499, [(124, "How noisy is the latent"), (3, "titles of the columns")]),
    lambda answer: exercises.most_layout(answer, CHANGES): (3, [(2, "multiply the last two columns")]),
    lambda answer: exercises.steps_for_budget(answer, EXAMS): (
        2,
        [(4, "takes more than 3 passes"), (3, "More steps are not always better")],
    ),
}


@pytest.mark.parametrize(("check", "cases"), CHECKS.items(), ids=range(1, 6))
def test_answers(check, cases):
    right, wrong = cases
    assert check(None) == UNANSWERED
    assert check(right).startswith("Right: ")
    for answer, hint in wrong:
        assert check(answer).startswith("Not yet: ")
        assert hint in check(answer)
