"""The paper's discriminator head. A head is any `nn.Module` made from a channel count: features (B, C, h, w) -> logits.

`nitro_lab.discriminators.checks` describes and checks what a head may do; `nitro_lab.discriminators.zoo` has others.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ConvHead"]


class ConvHead(nn.Module):
    """The paper's head: 4×4 convolution of stride 2, GroupNorm, SiLU, 1×1 convolution (arXiv 2412.02030, section 3).

    Args:
        channels: of the features.
        width: channels between the layers; the paper does not state it.
        depth: number of strided convolutions; the paper does not state it. Features must be at least 2^depth wide.
    """

    def __init__(self, channels: int, width: int = 32, depth: int = 1):
        super().__init__()
        self.depth = depth
        widths = [channels] + [width] * depth
        layers = [
            layer
            for inputs, outputs in pairwise(widths)
            for layer in (nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.GroupNorm(8, outputs), nn.SiLU())
        ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to logits (B, 1, h/2^depth, w/2^depth); a ValueError if they are too small."""
        self._check_size(feature)
        return self.layers(feature)

    def batched_forward(self, params: Mapping[str, Tensor], feature: Tensor) -> Tensor:
        """Run n heads on the same features (B, C, h, w) as one network of n groups: faster than `torch.vmap`.

        `params` has each parameter of all heads, (n, *its shape). Returns logits (n, B, 1, h/2^depth, w/2^depth).

        Raises:
            NotImplementedError: if a layer was replaced by one of another kind.
            ValueError: if the feature map is too small.
        """
        self._check_size(feature)
        first, last = self.layers[0], self.layers[-1]
        if type(first) is not nn.Conv2d or type(last) is not nn.Conv2d or last.out_channels != 1:
            raise NotImplementedError("ConvHead.batched_forward needs a convolution first, and one to 1 channel last.")
        n = len(next(iter(params.values())))
        for index, layer in enumerate(self.layers):
            if type(layer) is nn.SiLU:
                feature = layer(feature)
                continue
            if not _can_batch(layer):
                raise NotImplementedError(f"ConvHead.batched_forward cannot run {layer}; torch.vmap may.")
            weight, bias = (params[f"layers.{index}.{name}"].flatten(0, 1) for name in ("weight", "bias"))
            if isinstance(layer, nn.GroupNorm):
                feature = F.group_norm(feature, n * layer.num_groups, weight, bias, layer.eps)
            elif isinstance(layer, nn.Conv2d):  # all heads share the first layer's input: one group
                feature = _conv(layer, feature, weight, bias, groups=n if index else 1)
        return feature.transpose(0, 1).unsqueeze(2)

    def _check_size(self, feature: Tensor) -> None:
        """Refuse features that cannot be halved `depth` times."""
        height, width = feature.shape[-2:]
        if min(height, width) < 2**self.depth:
            raise ValueError(
                f"Features of {height}×{width} are too small for a head of depth {self.depth}, which needs at least "
                f"{2**self.depth}; lower head_depth or raise crop_size."
            )


def _can_batch(layer: nn.Module) -> bool:
    """Whether a layer is a GroupNorm, or a convolution without groups and dilation, with weight and bias."""
    if [name for name, _ in layer.named_parameters()] != ["weight", "bias"]:
        return False
    if type(layer) is nn.Conv2d:
        return (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
    return type(layer) is nn.GroupNorm


def _conv(layer: nn.Conv2d, feature: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Apply a convolution with other weights; two cases that are slow as convolutions on CPUs are computed otherwise.

    On a 2×2 map, a 4×4 convolution of stride 2 and padding 1 uses its inner 2×2 taps only: a matrix product. A 1×1
    convolution to one channel is a weighted sum.
    """
    geometry = (layer.kernel_size, layer.stride, layer.padding)
    if groups == 1 and geometry == ((4, 4), (2, 2), (1, 1)) and feature.shape[2:] == (2, 2):
        return F.linear(feature.flatten(1), weight[:, :, 1:3, 1:3].flatten(1), bias)[:, :, None, None]
    if geometry == ((1, 1), (1, 1), (0, 0)) and layer.out_channels == 1:
        return (feature.unflatten(1, (groups, -1)) * weight).sum(2) + bias[:, None, None]
    return F.conv2d(feature, weight, bias, layer.stride, layer.padding, groups=groups)
