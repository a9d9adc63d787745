"""Two ways to do one thing, timed in turn within one run: their ratio holds on a busy machine, where seconds do not."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from nitro_lab.studies.timing import now

Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """One comparison: what each side is, its median seconds, and the ratio of the two with the goal set for it.

    goal: the most that the ratio should be; None where no goal was set.
    """

    name: str
    ours: str
    theirs: str
    our_seconds: float
    their_seconds: float
    goal: float | None
    device: str = "cpu"

    @property
    def ratio(self) -> float:
        """Our time over theirs; below 1 we are faster."""
        return self.our_seconds / self.their_seconds

    @property
    def verdict(self) -> str:
        """Whether the goal was reached, in a word."""
        if self.goal is None:
            return "no goal"
        return "reached" if self.ratio <= self.goal else "missed"


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing, ready to be timed."""

    name: str
    ours: str
    theirs: str
    goal: float | None
    our_work: Work
    their_work: Work

    def time(self, rounds: int) -> Ratio:
        """Run both once to warm up, and then in turn, the one that goes first changing from round to round."""
        works = (self.our_work, self.their_work)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = now()
                works[side]()
                if turn > 0:
                    seconds[side].append(now() - start)
        ours, theirs = map(statistics.median, seconds)
        return Ratio(self.name, self.ours, self.theirs, ours, theirs, self.goal)
