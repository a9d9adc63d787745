"""The picture of the bench. Splits in, Figure out; nothing is timed here."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from nitro_lab.bench.parts import PARTS, Split
from nitro_lab.plots.canvas import PALETTE, panels

COLORS = dict(zip((*PARTS, "left over"), (*PALETTE[: len(PARTS)], "0.75"), strict=True))


def step_parts(splits: Sequence[Split]) -> Figure:
    """A bar for each split, as long as its step, of its parts; each with its milliseconds where there is room for them.

    A triangle points at where the step would end at its goal. What is left over is drawn if it is more than nothing.
    """
    figure, axis = panels(1, 1, (10.5, 1.6 + 0.6 * len(splits)))
    longest = 1e3 * max(max(split.step, sum(split.parts.values())) for split in splits)
    for place, split in enumerate(splits):
        start = 0.0
        for name, seconds in [*split.parts.items(), ("left over", max(0.0, split.left_over))]:
            width = 1e3 * seconds
            axis.barh(place, width, 0.6, left=start, color=COLORS[name], edgecolor="white", label=name)
            if width > 0.04 * longest:
                axis.text(start + width / 2, place, f"{width:.0f}", ha="center", va="center")
            start += width
        if split.ratio.goal:
            goal = 1e3 * split.ratio.goal * split.ratio.their_seconds
            axis.plot(goal, place - 0.38, "v", color="black", label="goal")
    axis.set_yticks(range(len(splits)), [f"{split.ratio.name} ({split.ratio.device})" for split in splits])
    axis.invert_yaxis()
    axis.set(xlabel="milliseconds", xlim=(0, 1.02 * longest), title="Where the time of a step goes")
    handles = dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return figure
