"""Check the answer to an exercise: the feedback is an explanation if it is right, a hint if it is not.

    def panel_size(answer: int | None) -> Feedback:
        return check(answer, 30, right="3 views × 10 levels.", hints={480: "the whole pool."}, otherwise="count cells.")

An exercise whose answer is a function checks it itself, and returns `NO_ANSWER`, `accept(why)` or `reject(hint)`.
"""

import math
from numbers import Real
from typing import Any

__all__ = ["NO_ANSWER", "Feedback", "accept", "check", "reject"]


class Feedback(str):
    """A message that a notebook shows without quotes."""

    __repr__ = str.__str__


NO_ANSWER = Feedback("No answer yet: replace None with your answer and run the cell again.")


def accept(why: str) -> Feedback:
    """Feedback for a right answer."""
    return Feedback(f"Right: {why}")


def reject(hint: str) -> Feedback:
    """Feedback for a wrong answer."""
    return Feedback(f"Not yet: {hint}")


def check(
    answer: Any, expected: Any, right: str, hints: dict, otherwise: Any, tolerance: float = 0, choices: Any = ()
) -> Feedback:
    """Compare an answer (None: `NO_ANSWER`) with a number, a string, a sequence, or a set (then in any order).

    Args:
        hints: wrong answer (a sequence as a tuple) -> hint, a string or a function of the answer that returns one.
        otherwise: hint for all other answers.
        tolerance: relative, for numbers, also in sequences and in `hints`.
        choices: if given, the values that an answer, or an element of it, can have.
    """
    answer = answer.tolist() if hasattr(answer, "tolist") else answer  # numpy, torch
    if answer is None:
        return NO_ANSWER
    if _kind(answer) != _kind(expected):
        return reject(f"the answer must be {_kind(expected)}, not {answer!r}.")
    if choices and not set(choices).issuperset(answer if _kind(expected) == "a list" else [answer]):
        return reject(f"choose from {', '.join(map(repr, choices))}.")
    if _same(answer, expected, tolerance):
        return accept(right)
    found = [hint for wrong, hint in hints.items() if _same(answer, wrong, tolerance)] + [otherwise]
    return reject(found[0] if isinstance(found[0], str) else found[0](answer))


def _kind(value: Any) -> str:
    kinds: dict[str, Any] = {"a number": Real, "a string": str, "a list": (list, tuple, set)}
    return next((kind for kind, types in kinds.items() if isinstance(value, types)), "something else")


def _same(given: Any, value: Any, tolerance: float) -> bool:
    if _kind(given) != _kind(value) or isinstance(value, set):
        return _kind(given) == _kind(value) and set(given) == value
    if _kind(value) == "a list":
        return len(given) == len(value) and all(_same(*pair, tolerance) for pair in zip(given, value, strict=True))
    return math.isclose(given, value, rel_tol=tolerance) if isinstance(given, Real) else given == value
