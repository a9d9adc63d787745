"""Classifier two-sample test: can a newly trained network distinguish two sets of images?"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.randomness import seeded
from tools.miniature.optimization import learning_rate_at, make_optimizer, optimizer_step

__all__ = ["two_sample_accuracy"]


def two_sample_accuracy(
    training: tuple[torch.Tensor, torch.Tensor],
    testing: tuple[torch.Tensor, torch.Tensor],
    steps: int = 400,
    batch_size: int = 64,
    seed: int = 0,
) -> float:
    """Train a small network to distinguish two kinds of images (N, 3, H, W), and return its accuracy on testing images.

    0.5 means that it cannot distinguish them (Lopez-Paz and Oquab 2017). The testing images should have other captions
    and noise than the training images.
    """
    generator = torch.Generator().manual_seed(seed)
    network = seeded(seed, _small_network).to(training[0].device)
    optimizer = make_optimizer(network.parameters())
    labels = torch.tensor([0.0, 1.0], device=training[0].device).repeat_interleave(batch_size // 2)
    for step in range(steps):
        half = [images[torch.randint(len(images), (batch_size // 2,), generator=generator)] for images in training]
        logits = network(torch.cat(half)).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer_step(optimizer, loss, learning_rate_at(1e-3, step, steps))
    network.eval()
    with torch.no_grad():
        first, second = (torch.cat([network(batch) for batch in images.split(250)]).squeeze(1) for images in testing)
    return ((first < 0).double().mean() + (second > 0).double().mean()).item() / 2


def _small_network() -> nn.Module:
    """Four strided convolutions and an average, 0.25 million parameters. (N, 3, H, W) -> (N, 1) logits."""
    widths = (3, 32, 64, 96, 128)
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
