"""A dashboard for a run: start it, watch it, pause it, stop it.

Buttons and other cells get their turn after each step. Drawing is on a budget: each picture is drawn anew only when its
share of the time has been saved up.
"""

import asyncio

import ipywidgets as widgets
import torch

from nitro_lab.plots.canvas import picture_grid, png
from nitro_lab.plots.pool import QUANTITIES, PoolMap, drawn_heads
from nitro_lab.plots.training import training_curves
from nitro_lab.runs.recording import Recording
from nitro_lab.widgets.parts import figure_box
from nitro_lab.widgets.running import BREATH, Budget, Running

SHARE = 0.03  # of the time, for each of the three pictures
LARGE_MARGIN = 0.3  # end of the map's colours; a head's margin is seldom larger on the miniature
RECENT = 20  # steps that the time to go is reckoned from


class Dashboard(Running):
    """Buttons, progress, the pool's map, curves and samples of a recording.

    Args:
        quantity: what colours the map at first, a key of `QUANTITIES`.
    """

    def __init__(self, recording: Recording, quantity: str = "age"):
        self.recording = recording
        self.paused = False
        self.mapped = 0  # the step of the last map
        self.start_button, self.pause_button, self.stop_button = (
            widgets.Button(description=name) for name in ("Start", "Pause", "Stop")
        )
        for button, react in (
            (self.start_button, self.start),
            (self.pause_button, self.pause),
            (self.stop_button, self.stop),
        ):
            button.on_click(lambda _, react=react: react())
        self.colors = widgets.Dropdown(options=list(QUANTITIES), value=quantity, description="colours")
        self.colors.observe(lambda _: self.choose_quantity(), "value")
        self.progress = widgets.IntProgress(0, 0, recording.training.config.steps, layout=widgets.Layout(width="180px"))
        self.words = widgets.HTML()
        self.map_image, self.curves_image, self.samples_image = (figure_box() for _ in range(3))
        self.map_budget, self.curves_budget, self.samples_budget = self.budgets = [
            Budget(draw, SHARE) for draw in (self.draw_map, self.draw_curves, self.draw_samples)
        ]
        self.choose_quantity()
        self.show_all()
        self.curves_budget.cost = self.samples_budget.cost  # a guess for the first curves: there is nothing to draw yet
        self.say()
        buttons = widgets.HBox([self.start_button, self.pause_button, self.stop_button, self.colors])
        pictures = [self.map_image, self.curves_image, self.samples_image]
        super().__init__([buttons, widgets.HBox([self.progress, self.words]), *pictures])

    def start(self) -> None:
        """Train from here on, in the background."""
        self.paused = False
        super().start()
        self.say()

    def pause(self) -> None:
        """Hold after the step that is under way, or go on."""
        self.paused = not self.paused
        self.say()
        if self.paused:
            self.show_all()

    def advance(self) -> bool:
        """One step of the recording."""
        return self.recording.advance() is not None

    def interrupted(self) -> str:
        """`hold` saves."""
        return "Stopped and saved."

    def hold(self, note: str) -> None:
        """Save, draw all, and say why it holds."""
        self.recording.stop()
        self.show_all()
        self.say(note)

    async def breathe(self) -> bool:
        """Let the kernel do what else it has to do; longer while paused."""
        while await super().breathe() and self.paused:
            await asyncio.sleep(4 * BREATH)
        return True

    @property
    def drawing_share(self) -> float:
        """Of the time that the training ran."""
        spent = sum(budget.spent for budget in self.budgets)
        return spent / (spent + self.trained) if self.trained else 0.0

    def choose_quantity(self) -> None:
        """A new map, with another scale of colours."""
        training, quantity = self.recording.training, self.colors.value
        config = training.config
        often = 1.5 * config.steps * config.per_cell / (config.slots * len(config.t_star))
        most = {"age": config.steps, "updates": often, "margin": LARGE_MARGIN}[quantity]
        self.map = PoolMap(training.pool.shape, config.t_star, quantity, most, tuple(training.ideas.views_of(config)))
        self.map.png()  # the fixed parts, outside of the budget
        self.map_budget.now()

    def show_all(self) -> None:
        """Draw every picture, as when the training holds."""
        for budget in self.budgets:
            budget.now()

    def draw_map(self) -> None:
        """The pool, with the last step's draws, and who was thrown out since the last map."""
        values = self.recording.training.pool.census()[self.colors.value]
        reports = self.recording.reports
        heads: tuple[torch.Tensor, ...] = ()
        if reports:
            new = [report.refreshed for report in reports[:-1] if report.step > self.mapped]
            last = reports[-1]
            heads = drawn_heads(last.noise_level, last.slots), torch.cat([*new, last.refreshed])
        self.mapped = self.recording.step
        self.map_image.value = self.map.show(values, *heads).png()

    def draw_curves(self) -> None:
        """Losses, margins, the student's gradient."""
        self.curves_image.layout.display = "" if self.recording.reports else "none"
        if self.recording.reports:
            training = self.recording.training
            told = training.ideas.told_of_objective(training.config)
            self.curves_image.value = png(training_curves(self.recording.table(), *told))

    def draw_samples(self) -> None:
        """The student before, and its average now."""
        recording = self.recording
        rows = {"before": recording.samples[0], f"step {recording.step}": recording.picture()}
        self.samples_image.value = png(picture_grid(rows, recording.prompts, size=1.1))

    def say(self, note: str = "") -> None:
        """Progress in words, and which buttons make sense."""
        step, steps = self.recording.step, self.recording.training.config.steps
        running, finished = self.task is not None, step >= steps
        self.progress.value = step
        self.start_button.disabled = running or finished
        self.pause_button.disabled = self.stop_button.disabled = not running
        self.pause_button.description = "Resume" if self.paused and running else "Pause"
        state = note or ("Done." if finished else "Paused." if self.paused and running else "")
        self.words.value = f"step {step} of {steps}{self.speed(steps - step)} {state}"

    def speed(self, left: int) -> str:
        """Seconds a step, time to go, and what the drawing takes."""
        if not self.recording.reports:
            return "."
        recent = [report.seconds for report in self.recording.reports[-RECENT:]]
        pace = sum(recent) / len(recent) / (1 - self.drawing_share)
        minutes, seconds = divmod(round(pace * left), 60)
        return f", {pace:.2f} s a step, {minutes}:{seconds:02} to go, drawing {self.drawing_share:.0%} of the time."
