"""Sliders over the figure of a schedule."""

import html

import ipywidgets as widgets
from matplotlib.figure import Figure

from nitro_lab.plots.canvas import png
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.figures import scheduler as plots
from workbook.shift import read_schedule
from workbook.widgets.common import figure_box

__all__ = ["plot_schedule", "shift_explorer"]


def plot_schedule(shift: int, num_inference_steps: int, original_inference_steps: int) -> Figure:
    """Plot a schedule of `TimestepShiftLCMScheduler`, which raises a ValueError for arguments that are not valid."""
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift, original_inference_steps=original_inference_steps)
    return plots.schedule(read_schedule(scheduler, num_inference_steps), scheduler.alphas_cumprod)


def shift_explorer(shift: int = 250, num_inference_steps: int = 4, original_inference_steps: int = 4) -> widgets.VBox:
    """Show `plot_schedule` with a slider for each argument, or the scheduler's error message in its place."""
    look = {"style": {"description_width": "170px"}, "layout": {"width": "620px"}}
    sliders = {
        "shift": widgets.IntSlider(shift, 1, 1000, **look),
        "num_inference_steps": widgets.IntSlider(num_inference_steps, 1, 12, **look),
        "original_inference_steps": widgets.IntSlider(original_inference_steps, 1, 50, **look),
    }
    for name, slider in sliders.items():
        slider.description = name

    figure, message = figure_box(), widgets.HTML(layout={"width": "820px"})

    def show(_: object = None) -> None:
        try:
            figure.value = png(plot_schedule(**{name: slider.value for name, slider in sliders.items()}))
            message.value = ""
        except ValueError as error:
            message.value = html.escape(str(error))
        figure.layout.display = "none" if message.value else ""

    for slider in sliders.values():
        slider.observe(show, "value")
    show()
    return widgets.VBox([*sliders.values(), message, figure])
