"""Losses of critics and student: closed forms, and torch's own binary cross-entropy."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from nitro_lab.objectives import OBJECTIVES

SHAPES = [(3,), (2, 5), (2, 4, 1, 3)]


def logits(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "critic", "student"),
    [("linear", 0, 0), ("hinge", 2, 0), ("non-saturating", 2 * math.log(2), math.log(2))],
)
def test_where_the_losses_stand_when_nothing_is_learned(name, critic, student):
    zeros = torch.zeros(2, 3)
    assert OBJECTIVES[name].critic(zeros, zeros).item() == pytest.approx(critic)
    assert OBJECTIVES[name].student(zeros).item() == pytest.approx(student)


@pytest.mark.parametrize("shape", SHAPES)
def test_non_saturating_is_cross_entropy(shape):
    real, fake = logits(shape, 0), logits(shape, 1)
    objective = OBJECTIVES["non-saturating"]
    wanted = cross_entropy(real, torch.ones_like(real)) + cross_entropy(fake, torch.zeros_like(fake))
    torch.testing.assert_close(objective.critic(real, fake), wanted)
    torch.testing.assert_close(objective.student(fake), cross_entropy(fake, torch.ones_like(fake)))


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_the_difference_of_means(shape):
    real, fake = logits(shape, 0), logits(shape, 1)
    torch.testing.assert_close(OBJECTIVES["linear"].critic(real, fake), fake.mean() - real.mean())
    torch.testing.assert_close(OBJECTIVES["linear"].student(fake), -fake.mean())


def test_hinge_by_hand():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    assert OBJECTIVES["hinge"].critic(real, fake).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    assert OBJECTIVES["hinge"].student(fake).item() == pytest.approx(2 / 3)


def test_hinge_pulls_no_further_than_its_margin():
    real, fake = torch.tensor([1.5, 0.5], requires_grad=True), torch.tensor([-1.5, -0.5], requires_grad=True)
    OBJECTIVES["hinge"].critic(real, fake).backward()
    assert real.grad.tolist() == [0, -0.5]
    assert fake.grad.tolist() == [0, 0.5]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_critic_raises_reals_and_lowers_fakes_and_student_raises_fakes(name):
    real, fake = torch.zeros(4, requires_grad=True), torch.zeros(4, requires_grad=True)
    OBJECTIVES[name].critic(real, fake).backward()
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()
    fake.grad = None
    OBJECTIVES[name].student(fake).backward()
    assert (fake.grad < 0).all()


def test_large_logits_stay_finite():
    far = torch.tensor([200.0])
    assert OBJECTIVES["non-saturating"].critic(-far, far).item() == pytest.approx(400)
    assert OBJECTIVES["non-saturating"].student(-far).item() == pytest.approx(200)
