"""Is there anything for critics to see? A small network, trained afresh, tries to tell two sets of images apart."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from nitro_lab.mini.training import descend, make_optimizer, plateau_rate
from nitro_lab.randomness import seeded


def tell_apart(
    training: tuple[torch.Tensor, torch.Tensor],
    testing: tuple[torch.Tensor, torch.Tensor],
    steps: int = 400,
    batch_size: int = 64,
    seed: int = 0,
) -> float:
    """Share of unseen images that the network puts on the right side; 0.5 is blindness.

    Args:
        training, testing: (first kind, second kind), each (N, 3, H, W) in [-1, 1]; the testing images should come
            from captions and noise that the training images did not.
    """
    generator = torch.Generator().manual_seed(seed)
    critic = seeded(seed, small_critic).to(training[0].device)
    optimizer = make_optimizer(critic.parameters())
    labels = torch.tensor([0.0, 1.0], device=training[0].device).repeat_interleave(batch_size // 2)
    for step in range(steps):
        half = [images[torch.randint(len(images), (batch_size // 2,), generator=generator)] for images in training]
        logits = critic(torch.cat(half)).squeeze(1)
        descend(optimizer, F.binary_cross_entropy_with_logits(logits, labels), plateau_rate(1e-3, step, steps))
    critic.eval()
    with torch.no_grad():
        first, second = (torch.cat([critic(batch) for batch in images.split(250)]).squeeze(1) for images in testing)
    return ((first < 0).double().mean() + (second > 0).double().mean()).item() / 2


def small_critic() -> nn.Module:
    """Four strided convolutions and an average, 0.25 million weights. (N, 3, H, W) -> (N, 1) logits."""
    widths = (3, 32, 64, 96, 128)
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU())
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1))
