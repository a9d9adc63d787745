"""What the controls have in common: fields, and boxes that hold a picture."""

import html
import io
from collections.abc import Iterable

import ipywidgets as widgets
from PIL import Image

from nitro_lab.plots.canvas import enlarge

WIDTH = 820  # pixels on the screen, of a figure
WIDE = {"width": "620px"}  # layout of a field to type into


def figure_box(shown: bool = True) -> widgets.Image:
    """A place for a figure's PNG."""
    return widgets.Image(format="png", layout=widgets.Layout(width=f"{WIDTH}px", display=None if shown else "none"))


def prompt_field(prompt: str) -> widgets.Text:
    """A field for a prompt. A new one counts when Enter is pressed or the field is left."""
    return widgets.Text(prompt, description="prompt", continuous_update=False, layout=WIDE)


def image_box(side: int) -> widgets.Image:
    """A place for a square image of so many pixels a side on the screen."""
    return widgets.Image(format="png", width=side, height=side)


def put(box: widgets.Image, image: Image.Image) -> None:
    """Show an image in its box, enlarged pixel by pixel if it is small."""
    file = io.BytesIO()
    enlarge(image, int(box.width)).save(file, "png")
    box.value = file.getvalue()


def paragraphs(remarks: Iterable[str]) -> str:
    """Remarks as HTML."""
    return "".join(f'<p style="line-height: 1.4">{html.escape(remark)}</p>' for remark in remarks)
