"""Exercises of notebook 05: right answers are accepted, wrong ones get a hint that fits, none crashes the page."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.compare.table import Estimate, Row
from nitro_lab.example_heads import GramHead, SpectralHead
from nitro_lab.exercises import workbench as exercises
from nitro_lab.objectives import OBJECTIVES, Objective, non_saturating_student
from nitro_lab.policies import first_of, retire_oldest, retire_uniform

MARKS = ("all", "FD")


class ColorHead(nn.Module):
    """The mean of each channel, and no more."""

    def __init__(self, channels: int):
        super().__init__()
        self.read = nn.Linear(channels, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.read(feature.mean((2, 3)))


class BlindHead(ColorHead):
    """Sees neither place nor colour: each channel is normalised away."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        normal = F.instance_norm(feature, eps=1e-12)
        return self.read(normal.pow(2).mean((2, 3)))


def rows(halves: tuple[float, float]) -> list[Row]:
    """A reference, and a variant whose differences are 0.1 and -0.2."""
    both = [
        {mark: Estimate(mean, half, 2) for mark, mean, half in zip(MARKS, means, halves, strict=True)}
        for means in ((0.0, 0.0), (0.1, -0.2))
    ]
    numbers = (Estimate(0.0, 0.1, 2), 1.0, 10, 100.0, Path("grid.png"))
    return [Row(name, [0, 1], [], part, part, *numbers) for name, part in zip(("full", "mine"), both, strict=True)]


def test_no_answer_is_no_error():
    checks = [
        exercises.color_critic(None),
        exercises.retire_most_updated(None),
        exercises.smoothed(None),
        exercises.mixer(None),
        exercises.runs_left(None),
        exercises.shown_differences(None, rows((1, 1)), MARKS),
    ]
    assert set(checks) == {exercises.UNANSWERED}


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (ColorHead, "Right"),
        (GramHead, "Right"),
        (lambda channels: nn.Sequential(nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, 1, 1)), "Right"),
        (SpectralHead, "where things are"),
        (lambda channels: nn.Conv2d(channels, 1, 3, padding=1), "where things are"),
        (BlindHead, "nor does it see colour"),
        (lambda channels: nn.Conv2d(channels, 2, 1), "one logit"),
        (nn.BatchNorm2d, "keeps state"),
    ],
)
def test_color_critic(head, words):
    assert words in exercises.color_critic(head)


def most_updated(lives, count, generator):
    return first_of(-lives["updates"], count, generator)


def in_place(lives, count, generator):
    return first_of(lives["updates"].neg_(), count, generator)


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (most_updated, "Right"),
        (in_place, "pool's own"),
        (lambda lives, count, generator: first_of(lives["updates"], count, generator), "sign has to change"),
        (retire_oldest, "those are the oldest"),
        (retire_uniform, "rank the heads"),
        (lambda lives, count, generator: torch.zeros(count, 3), "retire policy gave"),
        (lambda lives, count: None, "TypeError"),
    ],
)
def test_retire_most_updated(policy, words):
    assert words in exercises.retire_most_updated(policy)


def smooth(real_label: float, fake_label: float = 0.0, student=non_saturating_student) -> Objective:
    """Cross entropy with soft labels, written out: softplus(−x) is −log σ(x)."""

    def side(logits: torch.Tensor, label: float) -> torch.Tensor:
        return (label * F.softplus(-logits) + (1 - label) * F.softplus(logits)).mean()

    return Objective(lambda real, fake: side(real, real_label) + side(fake, fake_label), student)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (smooth(0.9), "2.20"),  # ln 9
        (smooth(0.9, 0.1), "both sides"),
        (OBJECTIVES["non-saturating"], "nothing is smoothed"),
        (smooth(0.9, student=OBJECTIVES["hinge"].student), "student's side"),
        (
            Objective(
                lambda real, fake: 0.9 * F.softplus(-real).mean() + F.softplus(fake).mean(), non_saturating_student
            ),
            "two parts",
        ),
        (smooth(0.5), "loss here is"),
        (lambda real, fake: 0.0, "not a function"),
        (Objective(lambda real: real.mean(), non_saturating_student), "TypeError"),
    ],
)
def test_smoothed(objective, words):
    assert words in exercises.smoothed(objective)


@pytest.mark.parametrize(
    ("answer", "words"),
    [("minibatch statistics", "Right"), ("spectral", "by itself"), ("the paper's head", "by itself"), ("x", "names")],
)
def test_mixer(answer, words):
    assert words in exercises.mixer(answer)


@pytest.mark.parametrize(
    ("answer", "words"), [(23, "Right"), (35, "all runs"), (18, "reference is a variant"), (12, "a run for each")]
)
def test_runs_left(answer, words):
    assert words in exercises.runs_left(answer)


@pytest.mark.parametrize(
    ("answer", "halves", "words"),
    [
        ([], (0.2, 0.3), "Right: none"),
        (["FD"], (0.2, 0.1), "Right: all"),
        ([], (0.2, 0.1), "larger than"),
        (["all", "FD"], (0.2, 0.1), "larger than"),
        ("FD", (0.2, 0.1), "give a list"),
        (["color"], (0.2, 0.1), "give a list"),
        ([], (float("nan"), float("nan")), "Right: none"),
    ],
)
def test_shown_differences(answer, halves, words):
    assert words in exercises.shown_differences(answer, rows(halves), MARKS)
