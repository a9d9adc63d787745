"""Figures of notebook 02. Each function takes data and returns a figure; none runs a model."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from nitro_lab.plots.canvas import PALETTE, panels
from workbook.timing import CallTimes

__all__ = ["confusions", "full_size_bars", "spectra", "throughput_curve", "time_bars"]

_PARTS = {  # field of CallTimes -> label, colors of the bar and of the text on it
    "text": ("text encoders", PALETTE[4], "black"),
    "unet": ("UNet", PALETTE[0], "white"),
    "vae": ("VAE decoder", PALETTE[2], "white"),
    "rest": ("the rest", "#BBBBBB", "black"),
}


def spectra(curves: Mapping[str, tuple[torch.Tensor, torch.Tensor]], reference: str) -> Figure:
    """Plot radial power spectra (`radial_spectrum`), and their ratios to the one named `reference`."""
    figure, (left, right) = panels(1, 2, (10.5, 4.2))
    for color, (name, (frequency, power)) in zip(PALETTE, curves.items(), strict=False):
        style = {"color": color, "label": name, "linestyle": "--" if name == reference else "-"}
        left.plot(frequency.cpu(), power.cpu(), **style)
        right.plot(frequency.cpu(), (power / curves[reference][1]).cpu(), **style)
    left.set(yscale="log", ylabel="mean power (squared pixel value)", title="Radial power spectrum")
    right.set(ylim=(0, None), ylabel=f"power / power of the {reference}", title=f"Ratio to the {reference}")
    for axis in (left, right):
        axis.set(xlabel="frequency (cycles per pixel)", xlim=(0, 0.5))
        axis.axvspan(0.25, 0.5, color="0.93", zorder=0)
        axis.grid(alpha=0.3)
    left.text(0.26, 0.03, "finest detail:\nabove half Nyquist", transform=left.get_xaxis_transform(), fontsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def confusions(matrices: Mapping[str, torch.Tensor], values: Sequence[str]) -> Figure:
    """Plot a confusion matrix (V, V) for each model, in per cent; `values` names the V classes."""
    figure, axes = panels(1, len(matrices), (1.2 + 2.5 * len(matrices), 3.2), sharey=True, squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        axis.imshow(matrix.cpu(), cmap="Blues", vmin=0, vmax=1)
        for row, column in torch.cartesian_prod(*2 * [torch.arange(len(values))]).tolist():
            share = matrix[row, column].item()
            text, color = "–" if math.isnan(share) else f"{100 * share:.0f}", "white" if share > 0.6 else "black"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
        axis.set_xticks(range(len(values)), values, rotation=45, ha="right")
        axis.set(title=name, xlabel="predicted")
    axes[0][0].set_yticks(range(len(values)), values)
    axes[0][0].set_ylabel("in the prompt (each row: 100 %)")
    return figure


def time_bars(times: Mapping[str, CallTimes]) -> Figure:
    """Plot where the time of one image goes: milliseconds on the left, fractions on the right."""
    figure, (left, right) = panels(1, 2, (10.5, 1.4 + 0.8 * len(times)), sharey=True)
    for row, call in enumerate(times.values()):
        start = 0.0
        for part, (name, color, ink) in _PARTS.items():
            seconds = getattr(call, part)
            left.barh(row, 1e3 * seconds, left=1e3 * start, color=color, label=name if row == 0 else None)
            bar = right.barh(row, seconds / call.total, left=start / call.total, color=color)
            if seconds > 0.07 * call.total:
                right.bar_label(bar, [f"{seconds / call.total:.0%}"], label_type="center", color=ink)
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
    """Plot images per second, and the time of a batch, over the batch size: every repeat, and the medians."""
    figure, (left, right) = panels(1, 2, (10.5, 3.8))
    seconds = {size: [size / speed for speed in row] for size, row in speeds.items()}
    for axis, rows, label in ((left, speeds, "images per second"), (right, seconds, "time of the whole batch (s)")):
        dots = [(size, value) for size, row in rows.items() for value in row]
        axis.plot(*zip(*dots, strict=True), "o", color=PALETTE[0], alpha=0.4, ms=5, mec="none", label="one repeat")
        axis.plot(list(rows), [median(row) for row in rows.values()], color=PALETTE[1], label="median")
        axis.set_xscale("log", base=2)
        axis.set(xticks=list(rows), xticklabels=list(rows), xlabel="batch size", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    left.legend(loc="lower right")
    return figure


def full_size_bars(parameters: Mapping[str, int], operations: Mapping[str, int]) -> Figure:
    """Plot gigabytes of weights in half precision, and floating-point operations for one image, by part."""
    figure, axes = panels(1, 2, (10.5, 2.6), sharey=True)
    memory = [2 * count / 1e9 for count in parameters.values()]
    work = [operations[name] / 1e12 for name in parameters]
    for axis, values, color in zip(axes, (memory, work), PALETTE, strict=False):
        axis.bar_label(axis.barh(list(parameters), values, color=color), fmt="%.2f", padding=4)
        axis.margins(x=0.16)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="weights in half precision (GB)", title=f"Memory: {sum(memory):.2f} GB of weights")
    axes[1].set(xlabel="operations (TFLOP)", title=f"One image in one step: {sum(work):.1f} TFLOP")
    return figure
