"""The lab bench: two variants of critics, chosen by controls, train side by side on the same noise.

It also says the call of `compare` that does the same, over as many seeds as one likes, and examines the students.
"""

import html
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import strftime
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure

from nitro_lab.compare.pair import Pair
from nitro_lab.compare.planning import Change
from nitro_lab.distill_config import DistillConfig
from nitro_lab.example_heads import EXAMPLES
from nitro_lab.plots.canvas import png
from nitro_lab.widgets.lab_bench_choice import PARTS, Call, Choice
from nitro_lab.widgets.parts import figure_box
from nitro_lab.widgets.running import Budget, Running

NAMES = ("A", "B")
KEPT = Path("build/lab_bench")
SHARE = 0.1  # of the time, for each of the two pictures: these runs are short, and to be looked at


class Controls(widgets.VBox):
    """Drop-downs for one variant; each control's options are those of `nitro_lab.widgets.lab_bench_choice.PARTS`."""

    def __init__(self, name: str, choice: Choice, heads: Mapping[str, Change]):
        options = PARTS | {"head": tuple(heads)}
        self.parts = {
            part: widgets.Dropdown(
                options=options[part], value=getattr(choice, part), description=f"{name} {part.replace('_', ' ')}"
            )
            for part in PARTS
        }
        super().__init__(list(self.parts.values()))

    @property
    def choice(self) -> Choice:
        """What they say."""
        return Choice(**{part: control.value for part, control in self.parts.items()})


class LabBench(Running):
    """Controls of two variants, buttons, their pictures and curves, and the call that does the same.

    Args:
        config: of both, until a control says otherwise; its `steps` are where the slider stands.
        heads: heads of one's own, name -> class; they join the examples, and the first one is B's.
        kept: folder in which Keep makes a folder for each pair.
    """

    def __init__(self, config: DistillConfig, heads: Mapping[str, Change] | None = None, kept: Path = KEPT):
        self.config, self.kept = config, kept
        own: dict[str, Any] = dict(heads or {})
        self.heads: dict[str, Any] = EXAMPLES | own
        self.pair: Pair | None = None
        self.make_controls(next(iter(own), "spectral"))
        self.pictures, self.curves = (figure_box(shown=False) for _ in range(2))
        self.budgets = [Budget(draw, SHARE) for draw in (self.draw_pictures, self.draw_curves)]
        buttons = widgets.HBox([self.start_button, self.stop_button, self.keep_button, self.steps])
        told = widgets.HBox([self.progress, self.words])
        super().__init__(
            [widgets.HBox(list(self.controls.values())), buttons, told, self.pictures, self.curves, self.code]
        )
        self.change()

    def make_controls(self, second: str) -> None:
        """A is the paper's; B has another head."""
        choices = dict(zip(NAMES, (Choice(), Choice(head=second)), strict=True))
        self.controls = {name: Controls(name, choice, self.heads) for name, choice in choices.items()}
        self.steps = widgets.IntSlider(self.config.steps, 1, max(200, self.config.steps), description="steps")
        for control in [self.steps, *(part for each in self.controls.values() for part in each.parts.values())]:
            control.observe(lambda _: self.change(), "value")
        self.start_button, self.stop_button, self.keep_button = (
            widgets.Button(description=name) for name in ("Start", "Stop", "Keep")
        )
        self.start_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.keep_button.on_click(lambda _: self.keep())
        self.progress = widgets.IntProgress(0, 0, self.config.steps, layout=widgets.Layout(width="180px"))
        self.words, self.code = widgets.HTML(), widgets.HTML()

    @property
    def call(self) -> Call:
        """The call of `compare` that does what the controls say."""
        choices = {name: controls.choice for name, controls in self.controls.items()}
        return Call(choices, replace(self.config, steps=self.steps.value), self.heads)

    def change(self) -> None:
        """A control was moved: the pair that was trained is no longer what the controls say, so Start begins anew."""
        self.pair = None
        self.code.value = f'<pre style="line-height: 1.4">{html.escape(str(self.call))}</pre>'
        self.say("Ready.")

    def start(self) -> None:
        """Train in the background, from the beginning or where it was stopped, unless a control was moved since."""
        super().start()
        self.say("Loading.")

    def advance(self) -> bool:
        """One step of one variant."""
        return self.pair is not None and self.pair.advance() is not None

    def interrupted(self) -> str:
        """Both have taken as many steps."""
        if self.pair and len(self.pair.recordings) == len(NAMES):
            self.pair.even_out()
        return "Stopped."

    async def prepare(self) -> None:
        """A pair for what the controls say, if there is none."""
        if self.pair is None:
            call = self.call
            self.temporary = TemporaryDirectory()
            changes = {name: choice.change(self.heads) for name, choice in call.choices.items()}
            self.pair = Pair(changes, call.config, Path(self.temporary.name))
            self.trained = 0.0
        for name in self.pair.prepare_all():
            self.say(f"Loading {name}.")
            await self.breathe()

    def hold(self, note: str) -> None:
        """Save, draw all, and say why it holds."""
        if self.pair and len(self.pair.recordings) == len(NAMES):
            self.pair.stop()
            for budget in self.budgets:
                budget.now()
        self.say(note)

    def keep(self) -> None:
        """Write both runs, and the call that does the same, into a new folder under `kept`."""
        assert self.pair
        folder = self.kept / strftime("%Y-%m-%d_%H-%M-%S")
        try:
            self.pair.keep(folder)
            (folder / "call.py").write_text(f"{self.call}\n")
            self.say(f"Kept in {html.escape(str(folder))}.")
        except (ValueError, OSError) as error:
            self.say(f"<b>{type(error).__name__}:</b> {html.escape(str(error))}")

    def draw_pictures(self) -> None:
        """The soft student and both variants."""
        assert self.pair
        self.pictures.value = png(self.pair.samples())
        self.pictures.layout.display = ""

    def draw_curves(self) -> None:
        """Margins and losses of both."""
        figure = self.pair.margins() if self.pair else None
        if figure:
            self.curves.value = png(figure)
        self.curves.layout.display = "" if figure else "none"

    def still(self) -> tuple[Figure, Figure]:
        """Samples and curves as they are now, to be shown without controls.

        Raises:
            ValueError: if nothing was trained.
        """
        if not self.pair or not (curves := self.pair.margins()):
            raise ValueError("Nothing was trained yet; press Start, or await finish().")
        return self.pair.samples(), curves

    def say(self, note: str = "") -> None:
        """Progress in words, and which buttons make sense."""
        step, steps = (self.pair.step, self.pair.steps) if self.pair else (0, self.steps.value)
        running = self.task is not None
        self.progress.max, self.progress.value = steps, step
        self.start_button.disabled = running or step >= steps
        self.stop_button.disabled = not running
        self.keep_button.disabled = running or not step
        for control in [self.steps, *(part for each in self.controls.values() for part in each.parts.values())]:
            control.disabled = running
        self.words.value = f"step {step} of {steps}. {note}"
