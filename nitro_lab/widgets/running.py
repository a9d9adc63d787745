"""A training that goes on while a notebook stays alive: when to draw, when to breathe, how to wait for the end."""

import asyncio
import html
from abc import abstractmethod
from collections.abc import Callable, Sequence
from time import perf_counter

import ipywidgets as widgets

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


class Running(widgets.VBox):
    """A widget that trains in the background: a task that hands control back to the kernel after each step.

    Attributes:
        task: the training, while it runs; trained: seconds in its steps; budgets: pictures that are drawn meanwhile.
    """

    task: asyncio.Task | None = None
    trained = 0.0
    budgets: Sequence[Budget] = ()

    @abstractmethod
    def advance(self) -> bool:
        """Train one step. False if there was none left."""

    @abstractmethod
    def interrupted(self) -> str:
        """Bring a stopped training into order; what to say of it."""

    @abstractmethod
    def hold(self, note: str) -> None:
        """The training is no longer running: save, draw all, and say why."""

    @abstractmethod
    def say(self, note: str = "") -> None:
        """Progress in words, and which buttons make sense."""

    async def prepare(self) -> None:
        """What comes before the first step."""

    def start(self) -> None:
        """Train in the background, from the beginning or where it was stopped."""
        if self.task is None:  # a second click may come before the button is grey
            self.task = asyncio.get_running_loop().create_task(self.run())

    def stop(self) -> None:
        """End after the step that is under way; Start goes on from there."""
        if self.task:
            self.task.cancel()

    async def finish(self) -> None:
        """Take all steps that are left; the pictures follow. An error of the training is raised here too."""
        self.start()
        if task := self.task:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()

    async def run(self) -> None:
        """Step after step until the end, a stop, or an error, which is shown."""
        note = "Done."
        try:
            await self.prepare()
            while await self.breathe() and self.step():
                pass
        except asyncio.CancelledError:
            note = self.interrupted()
        except Exception as error:
            note = f"<b>{type(error).__name__}:</b> {html.escape(str(error))}"
            raise
        finally:
            self.task = None
            self.hold(note)

    async def breathe(self) -> bool:
        """Let the kernel do what else it has to do."""
        await asyncio.sleep(BREATH)
        return True

    def step(self) -> bool:
        """Train one step and draw what the budget allows. False if there was none left."""
        start = perf_counter()
        if not self.advance():
            return False
        self.trained += perf_counter() - start
        for budget in self.budgets:
            budget.maybe(self.trained)
        self.say()
        return True
