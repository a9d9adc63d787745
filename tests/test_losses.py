"""Adversarial losses against closed forms and torch's binary cross-entropy; regularizers against plain loops."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from small_pool import CHANNELS, MeanHead, make_pool
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import GAN_LOSSES, GANBatch, approximate_r1, gradient_penalty
from nitro_lab.discriminators.pool import Panel, ViewFeatures
from nitro_lab.discriminators.zoo import ProjectionHead


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("linear", 0, 0),
        ("hinge", 2, 0),
        ("non_saturating", 2 * math.log(2), math.log(2)),
        ("relativistic", math.log(2), math.log(2)),
    ],
)
def test_losses_of_zero_logits_and_signs_of_their_gradients(name, discriminator, generator):
    loss = GAN_LOSSES[name]
    real, fake = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    assert loss.uninformed_loss == pytest.approx(discriminator)
    assert loss.generator(real, fake).item() == pytest.approx(generator)
    real_gradient, fake_gradient = torch.autograd.grad(loss.discriminator(real, fake), (real, fake))
    assert (real_gradient < 0).all()
    assert (fake_gradient > 0).all()
    assert (torch.autograd.grad(loss.generator(real, fake), fake)[0] < 0).all()


@pytest.mark.parametrize("scale", [3, 300])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (2, 4, 1, 3)])
def test_non_saturating_is_cross_entropy(shape, scale):
    real, fake = scale * torch.randn((2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = GAN_LOSSES["non_saturating"]
    expected = cross_entropy(real, torch.ones_like(real)) + cross_entropy(fake, torch.zeros_like(fake))
    torch.testing.assert_close(loss.discriminator(real, fake), expected)
    torch.testing.assert_close(loss.generator(fake, fake), cross_entropy(fake, torch.ones_like(fake)))


def test_hinge_by_hand_with_no_gradient_beyond_its_margin():
    real, fake = (torch.tensor(values, requires_grad=True) for values in ([2.0, 0.5, -1.0], [-3.0, 0.5, 1.0]))
    loss = GAN_LOSSES["hinge"].discriminator(real, fake)
    assert loss.item() == pytest.approx((0.5 + 2) / 3 + (1.5 + 2) / 3)
    assert GAN_LOSSES["hinge"].generator(fake, fake).item() == pytest.approx(1.5 / 3)
    loss.backward()
    torch.testing.assert_close(real.grad, torch.tensor([0, -1, -1]) / 3)
    torch.testing.assert_close(fake.grad, torch.tensor([0, 1, 1]) / 3)


def test_relativistic_compares_the_ith_real_with_the_ith_fake():
    real, fake = torch.tensor([[2.0, -1.0], [0.5, 0.0]]), torch.tensor([[1.0, 3.0], [-2.0, 0.0]])
    loss = GAN_LOSSES["relativistic"]
    differences = [1.0, -4.0, 2.5, 0.0]
    expected = sum(math.log(1 + math.exp(-d)) for d in differences) / 4
    assert loss.discriminator(real, fake).item() == pytest.approx(expected)
    assert loss.generator(real, fake).item() == pytest.approx(sum(math.log(1 + math.exp(d)) for d in differences) / 4)
    assert loss.discriminator(real, fake.flip(1)).item() != pytest.approx(expected, rel=0.01)
    for name in ("linear", "hinge", "non_saturating"):
        unpaired = GAN_LOSSES[name].discriminator
        assert unpaired(real, fake.flip(1)).item() == pytest.approx(unpaired(real, fake).item())


class TwoOfThreeLevels(nn.Module):
    """Sees all levels, and uses the first and the last."""

    all_levels = True

    def __init__(self, channels: list[int]):
        super().__init__()
        self.first, self.last = MeanHead(channels[0]), ConvHead(channels[-1], width=8)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return self.first(features[0]).tanh() * self.last(features[-1]).flatten(1)


def gan_batch(panel: Panel, real, fake, real_x0=None, extract=None) -> GANBatch:
    return GANBatch(
        real=real,
        fake=fake,
        real_logits=panel.score(real),
        fake_logits=panel.score(fake),
        real_x0=real_x0,
        fake_x0=None,
        real_embeds=None,
        fake_embeds=None,
        score=panel.score,
        extract=extract,
        generator=torch.Generator().manual_seed(2),
    )


def random_views(channels, generator: torch.Generator) -> list[ViewFeatures]:
    """A view of 3 images, and one of two crops of each."""
    views = []
    for rows in (3, 6):
        maps = [torch.randn(rows, width, 4, 4, generator=generator, dtype=torch.float64) for width in (*CHANNELS, 8)]
        maps = maps if isinstance(channels[0], int) else [maps]
        views.append(ViewFeatures(maps, torch.randn(rows, 7, generator=generator, dtype=torch.float64)))
    return views


def squared_gradients(head, channels, panel: Panel, views: list[ViewFeatures]) -> torch.Tensor:
    """E‖∂D/∂f‖² of one module and one image at a time, summed over heads; with the graph to the heads' parameters."""
    total = torch.zeros((), dtype=torch.float64)
    for params, (view, place) in zip(panel.parameters(), product(views, range(len(channels))), strict=True):
        maps = view.maps[place]
        single = isinstance(maps, torch.Tensor)
        for row in params:
            module = head(channels[place]).double()
            named, start = {}, 0
            for name, parameter in module.named_parameters():
                named[name] = row[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
            rows = len(view.pooled_prompt_embeds)
            for image in range(rows):
                inputs = [x[image : image + 1].clone().requires_grad_() for x in ([maps] if single else maps)]
                given = (inputs[0] if single else inputs,)
                if isinstance(module, ProjectionHead):
                    given += (view.pooled_prompt_embeds[image : image + 1],)
                logit = torch.func.functional_call(module, named, given).mean()
                gradients = torch.autograd.grad(logit, inputs, create_graph=True, allow_unused=True)
                total = total + sum(g.square().sum() for g in gradients if g is not None) / rows
    return total


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize(
    "head",
    [MeanHead, partial(ConvHead, width=8), partial(ProjectionHead, text_dim=7, width=4), TwoOfThreeLevels],
)
def test_gradient_penalty_is_that_of_a_loop_over_modules_and_images(head, vectorize):
    channels = [[*CHANNELS, 8]] if head is TwoOfThreeLevels else [*CHANNELS, 8]
    pool = make_pool(lambda width: head(width).double(), channels=channels, vectorize=vectorize).double()
    panel, generator = pool.sample(1, heads_per_cell=2), torch.Generator().manual_seed(1)
    real, fake = (random_views(channels, generator) for _ in range(2))
    batch = gan_batch(panel, real, fake)
    r1, r2 = (squared_gradients(head, channels, panel, views) for views in (real, fake))
    for options, expected in (({}, r1 / 2), ({"real": False, "fake": True, "weight": 0.3}, 0.15 * r2)):
        torch.testing.assert_close(gradient_penalty(batch, **options), expected)
    penalty = gradient_penalty(batch, weight=4.0, fake=True)
    torch.testing.assert_close(penalty, 2 * (r1 + r2))
    ours, theirs = (
        torch.autograd.grad(value, panel.parameters(), materialize_grads=True) for value in (penalty, 2 * (r1 + r2))
    )
    torch.testing.assert_close(ours, theirs)
    assert any(gradient.any() for gradient in ours)


def test_approximate_r1_is_sigma_squared_times_r1_in_latents():
    """For small σ, E(D(x0) − D(x0 + σ·ε))² = σ²·‖∂D/∂x0‖², here over many ε at one x0."""
    pool = make_pool(lambda width: nn.Sequential(MeanHead(width), nn.Tanh()).double()).double()
    panel, generator = pool.sample(0, heads_per_cell=2), torch.Generator().manual_seed(1)
    weights = [torch.randn(width, 2, 3, 3, generator=generator, dtype=torch.float64) for width in CHANNELS]

    def extract(x0: torch.Tensor, embeds: None) -> list[ViewFeatures]:
        features = ViewFeatures([torch.nn.functional.conv2d(x0, weight).sigmoid() for weight in weights])
        return [features, features.changed(lambda x: x[..., :1])]

    x0 = torch.randn(1, 2, 5, 5, generator=generator, dtype=torch.float64).requires_grad_()
    logits = [logit for values in panel.score(extract(x0, None)) for logit in values.flatten()]
    r1 = sum(torch.autograd.grad(logit, x0, retain_graph=True)[0].square().sum() for logit in logits)
    many = x0.detach().expand(10_000, -1, -1, -1)
    batch = gan_batch(panel, extract(many, None), extract(many, None), many, extract)
    assert approximate_r1(batch, 3.0, sigma=1e-4).item() == pytest.approx(3e-8 * r1.item(), rel=0.06)
    assert torch.autograd.grad(approximate_r1(batch), panel.parameters())[0].any()
