"""Reproducible use of torch's random number generators."""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

__all__ = ["global_seed_from", "randint_below", "seeded"]

Built = TypeVar("Built")


def seeded(seed: int, build: Callable[[], Built]) -> Built:
    """Call `build` with torch's global CPU generator seeded, and restore the generator's state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(operator.index(seed))
        return build()


@contextmanager
def global_seed_from(generator: torch.Generator) -> Iterator[None]:
    """Seed the global generators (for dropout, say) from `generator`, and restore their state afterwards."""
    seed = randint_below(2**62, generator)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed)
        yield


def randint_below(n: int, generator: torch.Generator) -> int:
    """Draw an integer from 0 to n − 1."""
    return int(torch.randint(n, (), generator=generator, device=generator.device))
