"""Controls for the pictures: ipywidgets that only wire sliders to functions of `nitro_lab.plots.scheduler`."""

import html

import ipywidgets as widgets
from matplotlib.figure import Figure

from nitro_lab.plots import scheduler as plots
from nitro_lab.plots.canvas import png
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.studies.shift import read_clocks
from nitro_lab.widgets.parts import WIDE, WIDTH, figure_box


def draw_schedule(shift: int, steps: int, length: int) -> Figure:
    """The explorer's picture.

    Args:
        length: `original_inference_steps`, the schedule that the steps are picked from.

    Raises:
        ValueError: the scheduler's own, if the three do not go together.
    """
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift, original_inference_steps=length)
    return plots.explorer(read_clocks(scheduler, steps), scheduler.alphas_cumprod)


def scheduler_explorer(shift: int = 250, steps: int = 4, length: int = 4) -> widgets.VBox:
    """Sliders for the shift, the number of steps and the length of the schedule, over a picture of the three clocks.

    Where the three do not go together, the scheduler's error message stands in place of the picture.
    """
    look = {"continuous_update": True, "style": {"description_width": "110px"}, "layout": WIDE}
    controls = {
        "shift": widgets.IntSlider(shift, 1, 1000, description="shift", **look),
        "steps": widgets.IntSlider(steps, 1, 12, description="steps", **look),
        "length": widgets.IntSlider(length, 1, 50, description="schedule length", **look),
    }
    picture = figure_box()
    message = widgets.HTML(layout=widgets.Layout(width=f"{WIDTH}px"))

    def draw(_: object = None) -> None:
        try:
            picture.value = png(draw_schedule(**{name: control.value for name, control in controls.items()}))
        except ValueError as error:
            message.value = f"<b>The scheduler says:</b> {html.escape(str(error))}"
        else:
            message.value = ""
        picture.layout.display = "none" if message.value else ""

    for control in controls.values():
        control.observe(draw, "value")
    draw()
    return widgets.VBox([*controls.values(), message, picture])
