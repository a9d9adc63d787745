"""Shared by all widgets: text fields, and boxes that show an image or a figure."""

import html
import io
from collections.abc import Iterable

import ipywidgets as widgets
from PIL import Image

from nitro_lab.plots.canvas import enlarge

__all__ = ["WIDE", "figure_box", "image_box", "paragraphs", "prompt_field", "put"]

WIDE = {"width": "620px"}  # layout of a field to type into


def figure_box(shown: bool = True) -> widgets.Image:
    """Make a box for the PNG of a figure."""
    return widgets.Image(format="png", layout=widgets.Layout(width="820px", display=None if shown else "none"))


def prompt_field(prompt: str) -> widgets.Text:
    """Make a field for a prompt. Its value changes when Enter is pressed or the field loses the focus."""
    return widgets.Text(prompt, description="prompt", continuous_update=False, layout=WIDE)


def image_box(side: int) -> widgets.Image:
    """Make a box for a square image; `side` is in pixels on the screen."""
    return widgets.Image(format="png", width=side, height=side)


def put(box: widgets.Image, image: Image.Image) -> None:
    """Show an image in a box. A small one is enlarged pixel by pixel."""
    file = io.BytesIO()
    enlarge(image, int(box.width)).save(file, "png")
    box.value = file.getvalue()


def paragraphs(remarks: Iterable[str]) -> str:
    """Format remarks as HTML."""
    return "".join(f'<p style="line-height: 1.4">{html.escape(remark)}</p>' for remark in remarks)
