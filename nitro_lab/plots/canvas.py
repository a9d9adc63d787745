"""What all pictures share: colours, figures that a notebook shows once, and grids of small images."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from einops import rearrange
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
Pictures = torch.Tensor | Sequence[Image.Image]


def panels(rows: int, columns: int, inches: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure with its axes, out of pyplot's hands: a notebook then shows it once, where it is asked for."""
    figure, axes = plt.subplots(rows, columns, figsize=inches, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [-1, 1] to pictures."""
    return VaeImageProcessor.numpy_to_pil(
        rearrange(images.float().clamp(-1, 1) / 2 + 0.5, "n c h w -> n h w c").cpu().numpy()
    )


def enlarge(image: Image.Image, side: int = 384) -> Image.Image:
    """Repeat the pixels of a small picture until it is about `side` wide; large pictures stay as they are."""
    factor = max(1, side // image.width)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def picture_grid(rows: Mapping[str, Pictures], columns: Sequence[str], size: float = 1.75) -> Figure:
    """Rows of pictures with a name on the left of each row and a title above each column.

    Args:
        rows: name -> N pictures, or (N, 3, H, W) in [-1, 1].
        columns: N titles; long lines are wrapped.
        size: inches a side of one picture.
    """
    titles = ["\n".join(textwrap.fill(line, round(size * 13)) for line in title.split("\n")) for title in columns]
    head = 0.2 * (1 + max(title.count("\n") for title in titles))
    shape = (size * len(columns) + 1.5, size * len(rows) + head)
    figure, axes = panels(len(rows), len(columns), shape, squeeze=False)
    for axes_row, (name, images) in zip(axes, rows.items(), strict=True):
        pictures = to_pil(images) if isinstance(images, torch.Tensor) else images
        for axis, picture in zip(axes_row, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        label = textwrap.fill(name, 18)
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center", labelpad=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure
