"""The checker of the exercises: what counts as the same answer, and which hint a wrong one gets."""

import numpy as np
import pytest
import torch

from workbook.exercises.checker import NO_ANSWER, accept, check, reject


def test_a_number_is_compared_within_the_relative_tolerance_and_hints_are_too():
    def grade(answer):
        hints = {250: "not in percent", 1.5: lambda given: f"{given} is too small"}
        return check(answer, 2.5, right="why", hints=hints, otherwise="other", tolerance=0.01)

    assert grade(None) is NO_ANSWER
    assert grade(2.51) == grade(np.float64(2.5)) == grade(torch.tensor(2.5)) == accept("why")
    assert grade(249) == reject("not in percent")
    assert grade(1.5) == reject("1.5 is too small")
    assert grade(2.6) == grade(float("nan")) == reject("other")
    assert check(30.01, np.int64(30), "why", {}, "other") == reject("other")  # without a tolerance: equal


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, set])
def test_sequences_are_compared_in_order_and_sets_are_not(kind):
    expected, swapped = ({3, 2}, accept("why")) if kind is set else ([3, 2], reject("swapped"))
    given = [check(kind(answer), expected, "why", {(2, 3): "swapped"}, "other") for answer in ([3, 2], [2, 3], [3])]
    assert given == [accept("why"), swapped, reject("other")]


@pytest.mark.parametrize(("answer", "named"), [(["q"], "'z'"), ("x", "a list"), (5, "a list"), (len, "a list")])
def test_other_kinds_and_choices_are_named(answer, named):
    assert named in check(answer, {"x", "y"}, "why", {}, "other", choices=("x", "y", "z"))
