"""Architectures of critics. A head is any `nn.Module` made from a channel count: features (B, C, h, w) -> logits.

What it may and may not do is told, and checked, in `nitro_lab.head_contract`; others are in `nitro_lab.example_heads`.
"""

from itertools import pairwise

import torch
from torch import nn


class ConvHead(nn.Module):
    """The paper's head: a 4×4 convolution of stride 2, GroupNorm, SiLU, and a map of logits (arXiv 2412.02030, sec. 3).

    Args:
        channels: of the feature map.
        width: channels between the layers; the paper does not state it.
        depth: how many times the map is halved; the paper does not state it. Features must be at least 2^depth wide.
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

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) -> logits (B, 1, h/2^depth, w/2^depth).

        Raises:
            ValueError: if the map is too small to be halved so often.
        """
        side, least = min(feature.shape[-2:]), 2**self.depth
        if side < least:
            raise ValueError(
                f"A feature map of {side}×{side} is too small for a head of depth {self.depth}, which needs {least}; "
                "use less depth, or larger crops (crop_size)."
            )
        return self.layers(feature)
