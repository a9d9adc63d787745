"""Many of the paper's heads as one network many times as wide: what vmap does with them, in fewer operations.

`torch.vmap` runs any head, but takes the axis of heads to another place around each layer, and copies all maps to do
so. Side by side, n heads of w channels are one head of n·w channels in n groups.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.heads import ConvHead
from nitro_lab.randomness import seeded


def as_papers_head(head: nn.Module) -> ConvHead | None:
    """The head, if it is the paper's, of any size; None for others, and for one that was changed after it was made."""
    if type(head) is not ConvHead:
        return None
    first, *_, last = head.layers
    if not isinstance(first, nn.Conv2d) or not isinstance(last, nn.Conv2d):
        return None
    fresh = seeded(0, lambda: ConvHead(first.in_channels, last.in_channels, head.depth))
    return head if str(head) == str(fresh) else None


def judge_side_by_side(head: ConvHead, weights: Mapping[str, torch.Tensor], feature: torch.Tensor) -> torch.Tensor:
    """Let n heads judge features (B, C, h, w). Returns their logits, (n, all of a head's).

    Args:
        head: whose layers these are, not their weights.
        weights: each parameter of all heads, (n, *its shape).
    """
    heads = len(next(iter(weights.values())))
    for place, layer in enumerate(head.layers):
        if isinstance(layer, nn.SiLU):
            feature = layer(feature)
            continue
        weight, bias = (weights[f"layers.{place}.{name}"].flatten(0, 1) for name in ("weight", "bias"))
        if isinstance(layer, nn.GroupNorm):
            feature = F.group_norm(feature, heads * layer.num_groups, weight, bias, layer.eps)
        elif isinstance(layer, nn.Conv2d):  # the first layer is one group, since all heads look at the same map
            feature = convolve(layer, feature, weight, bias, groups=heads if place else 1)
    return feature.transpose(0, 1).flatten(1)


def convolve(
    layer: nn.Conv2d, feature: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int
) -> torch.Tensor:
    """A layer with weights of other heads; two of its cases, for which a convolution is a slow way on CPUs, by others.

    Of a 2×2 map, a 4×4 convolution of stride 2 and padding 1 sees all in its inner taps: that is a matrix product. And
    a 1×1 convolution to one channel is a weighted sum.
    """
    if groups == 1 and layer.kernel_size == (4, 4) and feature.shape[2:] == (2, 2):
        return F.linear(feature.flatten(1), weight[:, :, 1:3, 1:3].flatten(1), bias)[:, :, None, None]
    if layer.kernel_size == (1, 1):
        return (feature.unflatten(1, (groups, -1)) * weight).sum(2) + bias[:, None, None]
    return F.conv2d(feature, weight, bias, layer.stride, layer.padding, groups=groups)
