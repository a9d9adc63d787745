"""Pictures of the inference notebook. Each function takes data and gives a Figure; none runs a model."""

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nitro_lab.plots.canvas import PALETTE, panels
from nitro_lab.studies.timing import CallTimes

PARTS = {  # field of CallTimes -> name, colour of its bar, colour of the writing on it
    "text": ("text encoders", PALETTE[4], "black"),
    "unet": ("UNet", PALETTE[0], "white"),
    "vae": ("VAE decoder", PALETTE[2], "white"),
    "rest": ("the rest", "#BBBBBB", "black"),
}


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


def confusions(shares: Mapping[str, torch.Tensor], values: Sequence[str]) -> Figure:
    """What was asked for against what is read, a panel for each model; right answers lie on the diagonal.

    Args:
        shares: name -> (V, V), as `nitro_lab.evaluate.confusion` gives them.
        values: names of the V values.
    """
    figure, axes = panels(1, len(shares), (1.2 + 2.5 * len(shares), 3.2), sharey=True, squeeze=False)
    for axis, (name, table) in zip(axes[0], shares.items(), strict=True):
        axis.imshow(table.cpu(), cmap="Blues", vmin=0, vmax=1)
        for asked, row in enumerate(table.tolist()):
            for read, share in enumerate(row):
                told = "–" if math.isnan(share) else f"{100 * share:.0f}"
                ink = "white" if share > 0.6 else "black"
                axis.text(read, asked, told, ha="center", va="center", color=ink, fontsize=8)
        axis.set_xticks(range(len(values)), values, rotation=45, ha="right")
        axis.set(title=name, xlabel="read by the judge")
    axes[0][0].set_yticks(range(len(values)), values)
    axes[0][0].set_ylabel("asked for (each row: 100 %)")
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
