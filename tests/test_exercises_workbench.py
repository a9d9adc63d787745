"""Exercises of notebook 05: right answers are accepted, wrong ones get the hint for them, errors are shown."""

import math

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from small_pool import MeanHead
from torch import nn

from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss, non_saturating_g_loss
from nitro_lab.discriminators.selection import lowest_ranked, refresh_oldest
from nitro_lab.discriminators.zoo import GramHead, SpectralHead
from workbook.exercises import workbench as exercises
from workbook.exercises.checker import NO_ANSWER

METRICS = ["all", "FD"]


def summary(halves: tuple[float, float]) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([["full", "mine"], METRICS], names=["variant", "metric"])
    return pd.DataFrame({"difference": [0, 0, 0.1, -0.2], "difference_half": [math.nan, math.nan, *halves]}, index)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (MeanHead, "Right"),
        (GramHead, "Right"),
        (lambda channels: nn.Sequential(nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, 1, 1)), "Right"),
        (SpectralHead, "pixels"),
        (lambda channels: nn.Conv2d(channels, 1, 3, padding=1), "pixels"),
        (lambda channels: nn.Sequential(nn.InstanceNorm2d(channels), MeanHead(channels)), "color"),
        (lambda channels: nn.Conv2d(channels, 2, 1), "Conv2d"),
        (nn.BatchNorm2d, "BatchNorm"),
    ],
)
def test_heads_that_see_color_only(head, named):
    feedback = exercises.color_head(head)
    assert named in feedback
    assert feedback.startswith("Right") == (named == "Right")


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        (lambda stats, *rest: lowest_ranked(-stats["updates"], *rest), "Right"),
        (lambda stats, *rest: lowest_ranked(stats["updates"], *rest), "negate"),
        (refresh_oldest, "updates"),
        (lambda stats, count, generator: torch.zeros(count, 3), "3"),
        (lambda stats, count: None, "TypeError"),
    ],
)
def test_refresh_policies(policy, named):
    assert named in exercises.refresh_most_updated(policy)


def smoothed(real_label: float, fake_label: float = 0.0, generator=non_saturating_g_loss) -> GANLoss:
    """Cross entropy with soft labels: softplus(−x) is −log σ(x)."""

    def side(logits: torch.Tensor, label: float) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    return GANLoss(lambda real, fake: side(real, real_label) + side(fake, fake_label), generator)


@pytest.mark.parametrize(
    ("loss", "named"),
    [
        (smoothed(0.9), "Right"),
        (smoothed(0.9, 0.1), "fakes"),
        (GAN_LOSSES["non_saturating"], "still 1"),
        (smoothed(0.9, generator=GAN_LOSSES["hinge"].generator), "non_saturating_g_loss"),
        (smoothed(0.5), "0.9"),
        (lambda real, fake: 0.0, "GANLoss"),
        (GANLoss(lambda real: real.mean(), non_saturating_g_loss), "TypeError"),
    ],
)
def test_smoothed_loss(loss, named):
    feedback = exercises.smoothed_loss(loss)
    assert named in feedback
    assert feedback.startswith("Right") == (named == "Right")


def test_batch_head_and_runs_left():
    assert exercises.batch_head("minibatch std").startswith("Right")
    assert "mixes_samples" in exercises.batch_head("spectral")
    assert exercises.runs_left(23).startswith("Right")
    assert len({exercises.runs_left(answer) for answer in (23, 35, 18, 12)}) == 4
    assert exercises.batch_head(None) == exercises.runs_left(None) == NO_ANSWER


@pytest.mark.parametrize(
    ("answers", "halves", "right"),
    [
        ([[]], (0.2, 0.3), True),
        ([["FD"]], (0.2, 0.1), True),
        ([[]], (math.nan, math.nan), True),
        ([[], ["all", "FD"], "FD", ["color"]], (0.2, 0.1), False),
    ],
)
def test_shown_differences(answers, halves, right):
    for answer in answers:
        assert exercises.shown_differences(answer, summary(halves), METRICS).startswith("Right") == right
