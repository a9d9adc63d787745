"""Chance that somebody else's code takes from torch's global generator, made repeatable."""

from collections.abc import Callable
from typing import TypeVar

import torch

Built = TypeVar("Built")


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Build something whose weights come from torch's global generator, and leave that generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()
