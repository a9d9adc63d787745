"""A dashboard of a training run: start, watch, pause and stop it while the notebook stays usable."""

import asyncio
import html
from pathlib import Path
from time import perf_counter
from weakref import WeakValueDictionary

import ipywidgets as widgets
import torch

from nitro_lab.plots.canvas import picture_grid, png
from nitro_lab.plots.training import training_curves
from nitro_lab.training.run import TrainingRun
from workbook.figures.pool import QUANTITIES, PoolMap, sampled_heads
from workbook.widgets.common import figure_box

__all__ = ["Dashboard"]

_DRAWING_SHARE = 0.03  # of the training time, for each of the three figures
_MAX_LOGIT_GAP = 0.3  # end of the color scale
_IDLE = 0.01  # seconds between steps for everything else that the kernel has to do
_dashboards: "WeakValueDictionary[Path, Dashboard]" = WeakValueDictionary()  # the last one of each folder


class Dashboard(widgets.VBox):
    """Buttons, progress, pool map, curves and samples of a run, which trains in the background of the kernel.

    Only one dashboard trains a folder: a new one first stops and saves what another in the same kernel trains there.
    `quantity` is what colors the map at first, a key of `QUANTITIES`. `task` is the training, or None.
    """

    def __init__(self, run: TrainingRun, quantity: str = "age"):
        self.run, self.paused = run, False
        self.task: asyncio.Task | None = None
        self._steps, self._trained, self._mapped_step = run.steps(), 0.0, 0
        self._stop_others()
        if run.step and not run.reports:  # trained before this object was made
            run.state.checkpoint.load()
        buttons = [widgets.Button(description=name) for name in ("Start", "Pause", "Stop")]
        self.start_button, self.pause_button, self.stop_button = buttons
        self.start_button.on_click(lambda _: self.start())
        self.pause_button.on_click(lambda _: self.pause())
        self.stop_button.on_click(lambda _: self.stop())
        self.colors = widgets.Dropdown(options=list(QUANTITIES), value=quantity, description="colors")
        self.colors.observe(lambda _: self._make_map(), "value")
        self.progress = widgets.IntProgress(0, 0, run.config.max_train_steps, layout={"width": "180px"})
        self.status = widgets.HTML()
        images = self.map_image, self.curves_image, self.samples_image = [figure_box() for _ in range(3)]
        self._figures = [self._draw_map, self._draw_curves, self._draw_samples]
        self._spent, self._cost = [0.0] * 3, [0.0] * 3  # seconds: of all drawings while training, and of the last one
        self._make_map()
        self._redraw()
        self._cost[1] = self._cost[2]  # an estimate: there may be no curves yet
        self._show_status()
        super().__init__([widgets.HBox([*buttons, self.colors]), widgets.HBox([self.progress, self.status]), *images])

    def start(self) -> None:
        """Train in the background, from the last step on."""
        self.paused = False
        if self.task is None:  # a second click may come before the button is disabled
            self._stop_others()
            self._steps = self.run.steps()
            self.task = asyncio.get_running_loop().create_task(self._train())
            self.task.add_done_callback(self._end)
        self._show_status()

    def pause(self) -> None:
        """Pause after the current step, or resume."""
        self.paused = not self.paused
        if self.paused:
            self._redraw()
        self._show_status()

    def stop(self) -> None:
        """Stop after the current step, and save."""
        if self.task:
            self.task.cancel()

    async def finish(self) -> None:
        """Train to the last step. Errors of the training are raised; interrupting the cell stops the training, too."""
        self.start()
        if task := self.task:
            try:
                await asyncio.wait([task])
            except (asyncio.CancelledError, KeyboardInterrupt):
                self.stop()
                await asyncio.wait([task])
                raise
            if not task.cancelled():
                task.result()

    def _stop_others(self) -> None:
        """Save and stop what another dashboard trains in the same folder."""
        folder = self.run.folder.resolve()
        other = _dashboards.get(folder, self)
        if other is not self:
            other._steps.close()
            other.stop()
        _dashboards[folder] = self

    async def _train(self) -> None:
        """Train step by step; the kernel does other work in between."""
        try:
            await asyncio.sleep(_IDLE)
            while self.paused or self._step():
                await asyncio.sleep(_IDLE)
        finally:
            self._steps.close()

    def _step(self) -> bool:
        """Train one step and redraw what is due. Return False if there was none left."""
        start = perf_counter()
        if next(self._steps, None) is None:
            return False
        self._trained += perf_counter() - start
        self._redraw(only_due=True)
        self._show_status()
        return True

    def _end(self, task: asyncio.Task) -> None:
        self.task, note = None, ""
        if task.cancelled():
            note = "Stopped and saved."
        elif error := task.exception():
            note = f"<b>{type(error).__name__}:</b> {html.escape(str(error))}"
        self._redraw()
        self._show_status(note)

    def _redraw(self, only_due: bool = False) -> None:
        """Redraw all figures, or those whose share of the training time allows another drawing like the last."""
        for index, draw in enumerate(self._figures):
            if only_due and self._spent[index] + self._cost[index] > _DRAWING_SHARE * self._trained:
                continue
            start = perf_counter()
            draw()
            self._cost[index] = perf_counter() - start
            self._spent[index] += self._cost[index] if only_due else 0

    def _make_map(self) -> None:
        state, config, quantity = self.run.state, self.run.config, self.colors.value
        num_sampled = config.max_train_steps * config.sampled_heads_per_cell / len(config.t_star)
        scales = {"age": config.max_train_steps, "updates": 1.5 * num_sampled / config.heads_per_cell}
        labels, scale = (config.t_star, list(state.views)), scales.get(quantity, _MAX_LOGIT_GAP)
        self._map = PoolMap(state.pool.shape, *labels, quantity, scale, state.feature_indices)
        self._map.png()  # draws the labels, once
        self._draw_map()

    def _draw_map(self) -> None:
        """Draw the pool, with the heads sampled last and those re-initialized since the last map."""
        heads: tuple[torch.Tensor, ...] = ()
        if reports := self.run.reports:
            last, new = reports[-1], [report.refreshed for report in reports if report.step > self._mapped_step]
            heads = sampled_heads(last.noise_level, last.indices), torch.cat(new or [last.refreshed])
        self._mapped_step = self.run.step
        self.map_image.value = self._map.show(self.run.state.pool.stats()[self.colors.value], *heads).png()

    def _draw_curves(self) -> None:
        reports, state = self.run.table(), self.run.state
        self.curves_image.layout.display = "none" if reports.empty else ""
        if not reports.empty:
            name = "custom" if state.parts.gan_loss else self.run.config.gan_loss
            self.curves_image.value = png(training_curves(reports, name, state.gan_loss.uninformed_loss))

    def _draw_samples(self) -> None:
        rows = {"before": self.run.samples[0], f"step {self.run.step}": self.run.sample_images()}
        self.samples_image.value = png(picture_grid(rows, self.run.sample_prompts, size=1.1))

    def _show_status(self, note: str = "") -> None:
        step, total, training = self.run.step, self.run.config.max_train_steps, self.task is not None
        paused, done = training and self.paused, step >= total
        self.progress.value = step
        self.start_button.disabled = training or done
        self.pause_button.disabled = self.stop_button.disabled = not training
        self.pause_button.description = "Resume" if paused else "Pause"
        note = note or ("Done." if done else "Paused." if paused else "")
        self.status.value = f"step {step} of {total}{self._speed(total - step)} {note}"

    def _speed(self, remaining: int) -> str:
        if not (recent := [report.seconds for report in self.run.reports[-20:]]):
            return "."
        pace = sum(recent) / len(recent) / (1 - self.drawing_share)
        minutes, seconds = divmod(round(pace * remaining), 60)
        return f", {pace:.2f} s per step, {minutes}:{seconds:02} left, drawing {self.drawing_share:.0%} of the time."

    @property
    def drawing_share(self) -> float:
        """Fraction of the time that goes into drawing."""
        return sum(self._spent) / max(sum(self._spent) + self._trained, 1e-9)
