"""Pictures of the inference notebook. Each function takes data and gives a Figure; none runs a model."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from nitro_lab.timing import CallTimes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito (2008)
PARTS = {  # field of CallTimes -> name, colour of its bar, colour of the writing on it
    "text": ("text encoders", "#E69F00", "black"),
    "unet": ("UNet", "#0072B2", "white"),
    "vae": ("VAE decoder", "#009E73", "white"),
    "rest": ("the rest", "#BBBBBB", "black"),
}
Pictures = torch.Tensor | Sequence[Image.Image]


def panels(rows: int, columns: int, inches: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """A figure with its axes, out of pyplot's hands: a notebook then shows it once, where it is asked for."""
    figure, axes = plt.subplots(rows, columns, figsize=inches, layout="constrained", **options)
    plt.close(figure)
    return figure, axes


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """(N, 3, H, W) in [-1, 1] to pictures."""
    return VaeImageProcessor.numpy_to_pil((images.float().clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).cpu().numpy())


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


def spectra(curves: Mapping[str, tuple[torch.Tensor, torch.Tensor]], reference: str) -> Figure:
    """Radial power spectra, as they are and divided by the reference's.

    Args:
        curves: name -> frequencies in cycles per pixel, and power, as `nitro_lab.evaluate.radial_spectrum` gives them.
        reference: name of the curve that the others are divided by.
    """
    figure, (left, right) = panels(1, 2, (10.5, 4.2))
    for color, (name, (frequency, power)) in zip(PALETTE, curves.items(), strict=False):
        style = {"color": color, "label": name, "linestyle": "--" if name == reference else "-"}
        left.plot(frequency.cpu(), power.cpu(), **style)
        right.plot(frequency.cpu(), (power / curves[reference][1]).cpu(), **style)
    left.set(yscale="log", ylabel="mean power (squared pixel value)", title="Radial power spectrum")
    right.set(ylim=(0, None), ylabel="power / reference's power", title=f"Share of the reference ({reference})")
    for axis in (left, right):
        axis.set(xlabel="frequency (cycles per pixel)", xlim=(0, 0.5))
        axis.axvspan(0.25, 0.5, color="0.93", zorder=0)
        axis.grid(alpha=0.3)
    left.text(0.26, 0.03, "finest detail:\nabove half Nyquist", transform=left.get_xaxis_transform(), fontsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def time_bars(times: Mapping[str, CallTimes]) -> Figure:
    """Where the time of one image goes: milliseconds on the left, shares on the right."""
    figure, (left, right) = panels(1, 2, (10.5, 1.4 + 0.8 * len(times)), sharey=True)
    for row, call in enumerate(times.values()):
        start = 0.0
        for part, (name, color, ink) in PARTS.items():
            seconds = getattr(call, part)
            left.barh(row, 1e3 * seconds, left=1e3 * start, color=color, label=name if row == 0 else None)
            right.barh(row, seconds / call.total, left=start / call.total, color=color)
            if seconds > 0.07 * call.total:
                middle = (start + seconds / 2) / call.total
                right.text(middle, row, f"{seconds / call.total:.0%}", ha="center", va="center", color=ink)
            start += seconds
        left.plot([1e3 * call.fastest, 1e3 * call.slowest], [row, row], "k|-", ms=10)
        end = 1e3 * max(call.slowest, call.total)
        left.annotate(f"{1e3 * call.total:.0f} ms", (end, row), (6, 0), textcoords="offset points", va="center")
    left.plot([], [], "k|-", ms=10, label="fastest to slowest call")
    left.set(yticks=range(len(times)), yticklabels=list(times), xlabel="time for one image (ms)", title="Time")
    left.margins(x=0.2)
    left.set_xlim(left=0)
    left.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="share of the time", title="Shares")
    right.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def throughput_curve(speeds: Mapping[int, Sequence[float]]) -> Figure:
    """Images a second over the batch size: every repeat as a dot, their medians as a line, and the time of a batch."""
    sizes = list(speeds)
    figure, (left, right) = panels(1, 2, (10.5, 3.8))
    for axis, unit in ((left, "images per second"), (right, "seconds until the whole batch is there")):
        rows = [[speed if axis is left else n / speed for speed in speeds[n]] for n in sizes]
        for size, row in zip(sizes, rows, strict=True):
            axis.plot([size] * len(row), row, "o", color=PALETTE[0], alpha=0.4, ms=5, mec="none")
        axis.plot(sizes, [statistics.median(row) for row in rows], color=PALETTE[1], label="median")
        axis.plot([], [], "o", color=PALETTE[0], alpha=0.4, mec="none", label="one repeat")
        axis.set_xscale("log", base=2)
        axis.set(xticks=sizes, xticklabels=sizes, xlabel="batch size (images)", ylabel=unit, ylim=(0, None))
        axis.grid(alpha=0.3)
    left.legend(loc="lower right")
    return figure


def full_size_bars(parameters: Mapping[str, int], operations: Mapping[str, int]) -> Figure:
    """What each part of the full-size model asks for: gigabytes of weights, and arithmetic for one image.

    Args:
        parameters: part -> number of weights; each takes two bytes in half precision.
        operations: part -> floating-point operations for one image and one step.
    """
    figure, axes = panels(1, 2, (10.5, 2.6), sharey=True)
    memory = [2 * count / 1e9 for count in parameters.values()]
    work = [operations[name] / 1e12 for name in parameters]
    for axis, values, color in zip(axes, (memory, work), PALETTE, strict=False):
        bars = axis.barh(list(parameters), values, color=color)
        axis.bar_label(bars, fmt="%.2f", padding=4)
        axis.margins(x=0.16)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="weights in half precision (GB)", title=f"Memory: {sum(memory):.2f} GB of weights")
    axes[1].set(xlabel="arithmetic (TFLOP)", title=f"One image in one step: {sum(work):.1f} TFLOP")
    return figure
