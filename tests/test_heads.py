"""Architectures of critics: logits for every size of feature map, image by image."""

import pytest
import torch
from torch import nn

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
