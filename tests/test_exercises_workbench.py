"""Exercises of notebook 05: right answers are accepted, wrong ones get the hint for them, errors are shown."""

import re
from functools import partial
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from small_pool import MeanHead
from torch import nn

from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss, gradient_penalty, non_saturating_g_loss
from nitro_lab.discriminators.selection import lowest_ranked, refresh_oldest
from nitro_lab.discriminators.zoo import GramHead, MinibatchStdHead, SpectralHead
from workbook.exercises import workbench as exercises
from workbook.exercises.checker import NO_ANSWER

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "05_discriminator_workbench.ipynb"


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (MeanHead, "Right"),
        (GramHead, "Right"),
        (lambda channels: nn.Sequential(nn.Conv2d(channels, 4, 1), nn.SiLU(), nn.Conv2d(4, 1, 1)), "Right"),
        (SpectralHead, "pixels"),
        (lambda channels: nn.Conv2d(channels, 1, 3, padding=1), "pixels"),
        (lambda channels: nn.Sequential(nn.InstanceNorm2d(channels), MeanHead(channels)), "color"),
        (lambda channels: nn.Conv2d(channels, 2, 1).requires_grad_(False), "Conv2d"),
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


def r1(batch, create_graph=True, side="real", factor=0.5, images=True):
    """R1 of heads that share no input, with one mistake or none."""
    views = [view.changed(lambda x: x.detach().requires_grad_()) for view in getattr(batch, side)]
    maps = [x for view in views for x in view.maps]
    scores = [(len(x) if images else 1) * y.mean() for x, y in zip(maps, batch.score(views), strict=True)]
    gradients = torch.autograd.grad(sum(scores), maps, create_graph=create_graph)
    return factor * sum(gradient.square().sum() / len(gradient) for gradient in gradients)


@pytest.mark.parametrize(
    ("penalty", "named"),
    [
        (r1, "Right"),
        (gradient_penalty, "Right"),
        (partial(r1, create_graph=False), "create_graph"),
        (partial(r1, side="fake"), "R2"),
        (partial(r1, factor=1), "half"),
        (partial(r1, factor=2), "mean over the images"),
        (partial(r1, images=False), "multiply"),
        (partial(r1, factor=7), "½"),
        (lambda batch: batch.real_logits[0].mean() * 0, "½"),
        (lambda batch: 1.0, "AttributeError"),
        (lambda: 1.0, "TypeError"),
    ],
)
def test_r1(penalty, named):
    feedback = exercises.r1_penalty(penalty)
    assert named in feedback
    assert feedback.startswith("Right") == (named == "Right")


class StdHead(nn.Module):
    """Sees how features vary over the batch; `mixes_samples` is to be set."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear = nn.Linear(channels, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return self.linear(feature.std(0, keepdim=True).mean((2, 3)).expand(len(feature), -1) + feature.mean((2, 3)))


class MixingStdHead(StdHead):
    mixes_samples = True


class MixingMeanHead(MeanHead):
    mixes_samples = True


@pytest.mark.parametrize(
    ("head", "named"),
    [
        (MixingStdHead, "Right"),
        (MinibatchStdHead, "Right"),
        (StdHead, "mixes_samples"),
        (MeanHead, "copies"),
        (MixingMeanHead, "copies"),
    ],
)
def test_heads_that_see_the_batch(head, named):
    feedback = exercises.batch_head(head)
    assert named in feedback
    assert feedback.startswith("Right") == (named == "Right")


def test_no_answer_is_no_error():
    for name in exercises.__all__:
        assert getattr(exercises, name)(None) == NO_ANSWER


def test_solutions_of_the_notebook_are_right():
    """Each exercise's folded solution defines the name that its last line gives to the check."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    solutions = [
        code
        for cell in notebook.cells
        for code in re.findall(r"<summary>Solution</summary>\s+```python\n(.*?)```", cell.source, re.DOTALL)
    ]
    assert len(solutions) == len(exercises.__all__)
    for code in solutions:
        *definition, call = code.strip().splitlines()
        names = {"exercises": exercises}
        exec("\n".join(definition), names)
        assert eval(call, names).startswith("Right"), code
