"""Architectures of critics: logits for every size of feature map, image by image."""

import pytest
import torch
from torch import nn

from nitro_lab.flat_head import FlatHead
from nitro_lab.heads import ConvHead


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels", "side", "depth"), [(64, 16, 1), (96, 4, 1), (96, 2, 1), (80, 8, 2), (64, 16, 3)])
def test_conv_head_halves_the_map_for_each_depth(channels, side, depth):
    logits = ConvHead(channels, depth=depth)(noise(2, channels, side, side))
    assert logits.shape == (2, 1, side >> depth, side >> depth)


def test_conv_head_is_the_papers_layers():
    layers = ConvHead(64, width=16, depth=2).layers
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.GroupNorm, nn.SiLU] * 2 + [nn.Conv2d]
    for convolution in (layers[0], layers[3]):
        assert (convolution.kernel_size, convolution.stride) == ((4, 4), (2, 2))
    assert [layers[0].in_channels, layers[3].in_channels, layers[6].in_channels] == [64, 16, 16]


def test_an_image_is_judged_alone():
    head, features = ConvHead(8, width=8), noise(3, 8, 8, 8)
    alone = torch.cat([head(feature[None]) for feature in features])
    torch.testing.assert_close(head(features), alone)


def test_default_width_is_that_of_the_pools_heads():
    assert ConvHead(64).layers[0].out_channels == 32


@pytest.mark.parametrize(
    ("channels", "side", "width", "depth"), [(6, 8, 8, 1), (5, 2, 16, 1), (6, 8, 8, 3), (4, 2, 8, 1)]
)
@pytest.mark.parametrize("heads", [1, 3])
def test_heads_side_by_side_are_those_of_vmap(channels, side, width, depth, heads):
    """Logits, and gradients of weights and features, in double precision."""
    flat = FlatHead(lambda c: ConvHead(c, width, depth), channels, torch.device("cpu"))
    assert flat.papers is flat.template
    rows = flat.fresh(heads, torch.Generator().manual_seed(1)).double().requires_grad_()
    feature = noise(4, channels, side, side).double().requires_grad_()
    wide = flat.score(rows, feature)
    flat.papers = None
    mapped = flat.score(rows, feature)
    torch.testing.assert_close(wide, mapped)
    weighting = torch.linspace(-1, 1, wide.numel(), dtype=torch.float64).view_as(wide)
    ours, theirs = (torch.autograd.grad((logits * weighting).sum(), (rows, feature)) for logits in (wide, mapped))
    torch.testing.assert_close(ours, theirs)


class LoudHead(ConvHead):
    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(feature)


def make_dilated(channels: int) -> ConvHead:
    head = ConvHead(channels, 8)
    head.layers[0].dilation = (2, 2)
    return head


def make_longer(channels: int) -> ConvHead:
    head = ConvHead(channels, 8)
    head.layers = nn.Sequential(nn.Identity(), *head.layers)
    return head


@pytest.mark.parametrize("make", [LoudHead, make_dilated, make_longer, lambda channels: nn.Conv2d(channels, 1, 1)])
def test_only_the_papers_own_head_runs_side_by_side(make):
    assert FlatHead(make, 8, torch.device("cpu")).papers is None


def test_a_map_that_is_too_small_is_refused_by_a_panel_too():
    flat = FlatHead(lambda channels: ConvHead(channels, 8, depth=2), 8, torch.device("cpu"))
    with pytest.raises(ValueError, match="too small for a head of depth 2"):
        flat.score(flat.fresh(2, torch.Generator()), noise(1, 8, 2, 2))
