"""Integers of any library as Python's own: of numpy, or tensors of one element."""

import operator
from typing import Any

__all__ = ["integer"]

_SEEDS = (-(2**63), 2**64 - 1)  # what torch's generators take


def integer(name: str, value: Any, low: int = _SEEDS[0], high: int = _SEEDS[1], hint: str = "") -> int:
    """Convert an integer of any library to int; the default range is that of random seeds.

    Raises a ValueError with its name if it is not an integer, a bool, or out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = low - 1
    if "bool" in f"{type(value).__name__} {getattr(value, 'dtype', '')}" or not low <= number <= high:
        limits = "" if (low, high) == _SEEDS else f" from {low} to {high}"
        raise ValueError(f"{name} is {value!r}; it must be an integer{limits}{hint}.")
    return number
