"""A training that goes on while a notebook stays alive: when to draw, when to breathe, how to wait for the end."""

import asyncio
from collections.abc import Callable
from time import perf_counter

BREATH = 0.01  # seconds between steps for all else that the kernel has to do


class Budget:
    """Lets a picture be drawn only as often as its share of the training's time pays for.

    Attributes:
        spent: seconds of drawing while the training ran; cost: of the last drawing, whenever that was.
    """

    def __init__(self, draw: Callable[[], None], share: float):
        self.draw = draw
        self.share = share
        self.spent = 0.0
        self.cost = 0.0

    def now(self) -> float:
        """Draw, whatever it costs. Returns the seconds."""
        start = perf_counter()
        self.draw()
        self.cost = perf_counter() - start
        return self.cost

    def maybe(self, trained: float) -> None:
        """Draw if the budget of so many seconds of training allows one more drawing like the last."""
        if self.spent + self.cost <= self.share * trained:
            self.spent += self.now()


async def see_through(task: asyncio.Task | None) -> None:
    """Wait until a run has ended, by itself or by a stop. Its error, if there was one, is raised here too."""
    if task:
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
