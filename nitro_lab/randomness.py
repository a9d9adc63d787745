"""Chance that somebody else's code takes from torch's global generators, made repeatable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Built = TypeVar("Built")


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Build something on the CPU with weights from torch's global generator, and leave that as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


@contextmanager
def chance_from(generator: torch.Generator) -> Iterator[None]:
    """Let global chance (dropout, say) follow a generator that is saved, and leave the global ones as they were."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def random_below(count: int, generator: torch.Generator) -> int:
    """An integer from 0 to count − 1."""
    return int(torch.randint(count, (), generator=generator, device=generator.device))
