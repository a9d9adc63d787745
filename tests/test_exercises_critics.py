"""Exercises of notebook 03: right answers are accepted, wrong ones get a hint that fits, none crashes the page."""

import numpy as np
import pytest
import torch

from nitro_lab.exercises import critics as exercises
from nitro_lab.objectives import OBJECTIVES

T_STAR = (10, 250, 500, 750)
DAMAGES = ["color", "blur"]
RESPONSE = np.zeros((2, 4, 3, 10))
RESPONSE[0, 3] = 9.0
RESPONSE[1] = np.array([0.5, -0.9, 0.2, 0.1])[:, None, None]


def test_no_answer_is_no_error():
    checks = [
        exercises.panel_size(None),
        exercises.blind_losses(2, None),
        exercises.blind_losses(None, None),
        exercises.updates_of_a_life(None),
        exercises.newcomers(None),
        exercises.patient_refresh(None),
        exercises.blur_watcher(None, RESPONSE, DAMAGES, T_STAR),
    ]
    assert set(checks) == {exercises.UNANSWERED}


@pytest.mark.parametrize(
    ("answer", "words"), [(30, "Right: 30 of 480"), (120, "Not yet"), (480, "whole pool"), (10, "count the views")]
)
def test_panel_size(answer, words):
    assert words in exercises.panel_size(answer)


@pytest.mark.parametrize(
    ("hinge", "other", "words"),
    [(2, 1.386, "Right"), (1, 1.386, "Put both"), (2, 0.693, "one side"), (2, 2, "hinge is right")],
)
def test_blind_losses(hinge, other, words):
    assert words in exercises.blind_losses(hinge, other)


def test_blind_losses_are_those_of_the_objectives():
    blind = torch.zeros(4)
    losses = [OBJECTIVES[name].critic(blind, blind).item() for name in ("hinge", "non-saturating")]
    assert "Right" in exercises.blind_losses(*losses)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(6.25, "Right"), (6.2, "Right"), (100, "drawn"), (25, "this very head"), (3, "how many steps")],
)
def test_updates_of_a_life(answer, words):
    assert words in exercises.updates_of_a_life(answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [(0.139, "Right"), (0.01, "born in each step"), (13.9, "percentage"), (0.16, "it waits"), (0.5, "is blind")],
)
def test_newcomers(answer, words):
    assert words in exercises.newcomers(answer)


@pytest.mark.parametrize(
    ("answer", "words"), [(0.000625, "16 times slower"), (0.0625, "percentage"), (0.01, "solve"), (0, "solve")]
)
def test_patient_refresh(answer, words):
    assert words in exercises.patient_refresh(answer)


@pytest.mark.parametrize(("answer", "words"), [(250, "Right"), (10, "0.50 spreads"), (100, "10, 250, 500, 750")])
def test_blur_watcher(answer, words):
    assert words in exercises.blur_watcher(answer, RESPONSE, DAMAGES, T_STAR)
