"""Classifier two-sample test: how often a newly trained network tells a model's images from its teacher's."""

from itertools import pairwise
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from scipy.stats import t as students_t
from torch import Tensor, nn

from nitro_lab.evaluation.metrics import high_pass
from nitro_lab.randomness import seeded

__all__ = ["told_apart"]

_WIDTHS = (32, 64, 96)
_EPOCHS = 25
_PAIRS = 32  # in a batch
_LEARNING_RATE = 0.015
_WEIGHT_DECAY = 0.01


def told_apart(
    teacher: Tensor, images: Tensor, groups: Tensor | None = None, num_seeds: int = 3
) -> tuple[float, float]:
    """Accuracy of a small network that tells images from the teacher's (Lopez-Paz and Oquab 2017): 0.5 is chance.

    Row by row, both sets have the same caption and the same initial noise. A new network is trained on half of the
    captions and tested on the other half, one image at a time. Returns the mean over seeds, and half of its 95 %
    interval (Student's t; NaN for one seed).

    Args:
        teacher, images: (N, 3, S, S) in [-1, 1], 4 or more pairs.
        groups: (N,) an integer from 0 for each caption; a caption is never in both halves. By default all rows differ.
        num_seeds: networks, each with its own weights, halves and batches.
    """
    groups = torch.arange(len(images)) if groups is None else groups.cpu()
    if teacher.shape != images.shape or len(images) < 4 or len(groups.unique()) < 4:
        got = f"teacher is {(*teacher.shape,)}, images are {(*images.shape,)} of {len(groups.unique())} captions"
        raise ValueError(f"{got}; give 4 or more pairs with 4 or more captions.")
    if torch.equal(teacher, images):
        return 0.5, 0.0
    values = [_accuracy(teacher.float(), images.float(), groups, seed) for seed in range(num_seeds)]
    if num_seeds == 1:
        return values[0], float("nan")
    return mean(values), float(students_t.ppf(0.975, num_seeds - 1)) * stdev(values) / num_seeds**0.5


def _accuracy(teacher: Tensor, images: Tensor, groups: Tensor, seed: int) -> float:
    """Train one network on half of the captions, and test it on the others."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(int(groups.max()) + 1, generator=generator)
    training = torch.isin(groups, order[: len(order) // 2])
    # with their fine detail, which is then found sooner where few images are given; (N, 2, 6, S, S)
    pairs = torch.stack([torch.cat([x, high_pass(x)], 1) for x in (teacher, images)], 1)
    network = seeded(seed, _small_network).to(images.device)
    with torch.enable_grad():
        _train(network, pairs[training.to(images.device)], generator)
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(half.flatten(0, 1)) for half in pairs[~training.to(images.device)].split(64)])
    first, second = logits.view(-1, 2).unbind(1)
    return ((first > 0).double().mean() + (second <= 0).double().mean()).item() / 2


def _train(network: nn.Module, pairs: Tensor, generator: torch.Generator) -> None:
    """Minimize the cross-entropy of each image, and of each pair: which of the two is the teacher's.

    Both images of a pair are in the batch, cropped at the same place, so that captions cancel out. Pairs
    (M, 2, 6, S, S), the teacher's image first. No flips: captions have left and right.
    """
    batches = -(-len(pairs) // _PAIRS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, _EPOCHS * batches, pct_start=0.2)
    size = pairs.shape[-1] * 3 // 4
    for _ in range(_EPOCHS):
        for rows in torch.randperm(len(pairs), generator=generator).chunk(batches):
            top, left = torch.randint(pairs.shape[-1] - size + 1, (2,), generator=generator).tolist()
            batch = pairs[rows.to(pairs.device), ..., top : top + size, left : left + size]
            first, second = network(batch.flatten(0, 1)).view(-1, 2).unbind(1)
            loss = (F.softplus(-first) + F.softplus(second) + 2 * F.softplus(second - first)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _small_network() -> nn.Module:
    """Three strided convolutions and an average, 0.08 million parameters. (N, 6, S, S) -> (N, 1) logits."""
    layers: list[nn.Module] = []
    for a, b in pairwise((6, *_WIDTHS)):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_WIDTHS[-1], 1))
