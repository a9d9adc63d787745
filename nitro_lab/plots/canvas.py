"""Shared by all figures: colors, axes, PNG files, and grids of images."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers.image_processor import VaeImageProcessor
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

__all__ = ["PALETTE", "enlarge", "escape", "panels", "picture_grid", "png", "to_pil"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
Images = Tensor | Sequence[Image.Image]


def panels(rows: int, columns: int, inches: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Make a figure and its axes. pyplot does not keep it, so a notebook shows it only where a cell returns it."""
    figure, axes = plt.subplots(rows, columns, figsize=inches, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def png(figure: Figure) -> bytes:
    """Encode a figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def to_pil(images: Tensor) -> list[Image.Image]:
    """Convert images (N, 3, H, W) in [-1, 1] to PIL."""
    return VaeImageProcessor().postprocess(images.float().cpu(), output_type="pil")


def enlarge(image: Image.Image, side: int = 384) -> Image.Image:
    """Repeat the pixels of a small image until it is about `side` wide. Larger images stay as they are."""
    factor = max(1, side // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def escape(text: str) -> str:
    """Escape `$` in text that users give, such as prompts and names, so that matplotlib does not read it as maths."""
    return text.replace("$", r"\$")


def picture_grid(rows: Mapping[str, Images], columns: Sequence[str], size: float = 1.75) -> Figure:
    """Plot rows of images, with a name on the left of each row and a title above each column.

    Args:
        rows: name -> N images, or a tensor (N, 3, H, W) in [-1, 1].
        columns: N titles; long lines are wrapped.
        size: side of an image in inches.
    """
    titles = ["\n".join(textwrap.fill(line, round(size * 13)) for line in title.split("\n")) for title in columns]
    head = 0.2 * (1 + max(title.count("\n") for title in titles))
    shape = (size * len(columns) + 1.5, size * len(rows) + head)
    figure, axes = panels(len(rows), len(columns), shape, squeeze=False)
    for axes_row, (name, images) in zip(axes, rows.items(), strict=True):
        shown = to_pil(images) if isinstance(images, Tensor) else images
        for axis, image in zip(axes_row, shown, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        label = escape(textwrap.fill(name, 18))
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(escape(title), fontsize=9)
    return figure
