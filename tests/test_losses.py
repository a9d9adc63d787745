"""Adversarial losses against closed forms and torch's binary cross-entropy."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from nitro_lab.discriminators.losses import GAN_LOSSES


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [("linear", 0, 0), ("hinge", 2, 0), ("non_saturating", 2 * math.log(2), math.log(2))],
)
def test_losses_of_zero_logits_and_signs_of_their_gradients(name, discriminator, generator):
    loss = GAN_LOSSES[name]
    real, fake = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    assert loss.uninformed_loss == pytest.approx(discriminator)
    assert loss.generator(fake).item() == pytest.approx(generator)
    real_gradient, fake_gradient = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all()
    assert (torch.autograd.grad(loss.generator(fake), fake)[0] < 0).all()


@pytest.mark.parametrize("scale", [3, 300])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 4, 1, 3)])
def test_non_saturating_is_cross_entropy(shape, scale):
    real, fake = scale * torch.randn((2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = GAN_LOSSES["non_saturating"]
    expected = cross_entropy(real, torch.ones_like(real)) + cross_entropy(fake, torch.zeros_like(fake))
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake), cross_entropy(fake, torch.ones_like(fake)))


def test_hinge_by_hand_with_no_gradient_beyond_its_margin():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([2.0, 0.5, -1.0], [-3.0, 0.5, 1.0]))
    loss = GAN_LOSSES["hinge"].discriminator(real, fake)
    assert loss.item() == pytest.approx((0.5 + 2) / 3 + (1.5 + 2) / 3)
    assert GAN_LOSSES["hinge"].generator(fake).item() == pytest.approx(1.5 / 3)
    loss.backward()
    torch.testing.assert_close(real.grad, torch.tensor([0, -1, -1]) / 3)
    torch.testing.assert_close(fake.grad, torch.tensor([0, 1, 1]) / 3)
