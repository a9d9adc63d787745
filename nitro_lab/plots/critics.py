"""Pictures of the critics: what they see, how long they live, who notices what. Each takes data and gives a Figure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from nitro_lab.plots.canvas import PALETTE, panels, picture_grid, to_pil
from nitro_lab.studies.demography import (
    Population,
    ages,
    at_least,
    mean_updates,
    share_at_least,
    updates,
)
from nitro_lab.views import CHOICES


def feature_maps(seen: Mapping[str, torch.Tensor], maps: Mapping[str, Sequence[torch.Tensor]]) -> Figure:
    """What the backbone makes of one latent at each noise level.

    A map's channels are turned into colours: red, green and blue are its three strongest directions (principal
    components), found for a feature level over all rows together, so equal colours in a column mean equal features.

    Args:
        seen: row name -> the noisy latent, decoded, (1, 3, H, W) in [-1, 1].
        maps: row name -> feature maps [(1, C_l, h_l, w_l)].
    """
    levels = [principal_colors(torch.cat(level)) for level in zip(*maps.values(), strict=True)]
    rows = {
        name: [*to_pil(picture), *(to_pil(level[row : row + 1])[0] for level in levels)]
        for row, (name, picture) in enumerate(seen.items())
    }
    first = next(iter(maps.values()))
    return picture_grid(rows, ["what it sees", *(titled(i, level) for i, level in enumerate(first))], size=0.98)


def titled(index: int, level: torch.Tensor) -> str:
    """The name of a feature level, with its shape."""
    channels, height, width = level.shape[1:]
    return f"level {index + 1}\n{channels}×\n{height}×{width}"


def principal_colors(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) to (N, 3, h, w) in [-1, 1]: three principal components, each from its 2nd to 98th centile."""
    count, _, height, width = maps.shape
    points = rearrange(maps.float(), "n c h w -> (n h w) c")
    points = points - points.mean(0)
    _, _, directions = torch.linalg.svd(points, full_matrices=False)
    values = points @ directions[:3].T
    low, high = values.quantile(0.02, 0), values.quantile(0.98, 0)
    scaled = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 2 - 1
    return rearrange(scaled, "(n h w) c -> n c h w", n=count, h=height, w=width)


def demography(simulated: Sequence[Population], measured: Population | None = None) -> Figure:
    """Ages and updates of the heads alive after some steps: closed form (lines), dice (dots), a real pool (black).

    Args:
        simulated: one for each pair of refresh rate and heads drawn a cell, all of the same number of steps.
        measured: of a training run, if there is one; its closed form is drawn dashed.
    """
    steps = simulated[0].steps
    draws = sorted({population.rules.per_cell for population in simulated})
    colors = dict(zip(sorted({population.rules.refresh for population in simulated}), PALETTE, strict=False))
    figure = plt.figure(figsize=(11, 6.8), layout="constrained")
    plt.close(figure)
    top, bottom = np.atleast_1d(figure.subfigures(2, 1))  # type: ignore[arg-type]  # an array, if more than one
    age, mean = top.subplots(1, 2)
    axes = dict(zip(draws, bottom.subplots(1, len(draws), sharey=True), strict=True))
    for population in simulated:
        rules, color = population.rules, colors[population.rules.refresh]
        if rules.per_cell == draws[0]:
            name = f"refresh {100 * rules.refresh:g} %"
            draw_survival(age, ages(rules, population.steps), population.age, color, label=name)
        shown = round(1.8 * rules.drawn * population.steps) + 1  # more are hardly ever seen
        draw_survival(axes[rules.per_cell], updates(rules, population.steps), population.updates, color, shown=shown)
        axes[rules.per_cell].set_xlim(-0.3, shown)
        mean.plot(rules.per_cell, population.updates.mean(), "o", color=color, ms=6)
    for refresh, color in colors.items():
        rules_of_draws = [replace(simulated[0].rules, refresh=refresh, per_cell=draw) for draw in draws]
        heights = [mean_updates(rules, steps) for rules in rules_of_draws]
        mean.plot(draws, heights, color=color, lw=1.5)
    if measured is not None:
        add_measured(age, mean, axes[measured.rules.per_cell], measured)
    label_demography(age, mean, axes, steps)
    figure.legend(*age.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def draw_survival(
    axis: Axes, shares: np.ndarray, values: np.ndarray, color: str, label: str | None = None, shown: int | None = None
) -> None:
    """The share that has at least so much, by the formula as a line, and of some values (up to `shown`) as dots."""
    most = len(shares) - 1
    some = np.unique(np.linspace(0, min(most, shown or most), 25).round().astype(int))
    axis.plot(at_least(shares), color=color, lw=1.5, label=label)
    axis.plot(some, share_at_least(values, most)[some], "o", color=color, ms=4)


def add_measured(age: Axes, mean: Axes, spread: Axes, measured: Population) -> None:
    """What a training run counted, and what its own rules say."""
    formula: dict[str, Any] = {"color": "black", "lw": 1.2, "linestyle": "--"}
    count: dict[str, Any] = {"color": "black", "lw": 2.4, "alpha": 0.65, "drawstyle": "steps-post"}
    name = f"the run: refresh {100 * measured.rules.refresh:g} %, draws {measured.rules.per_cell}"
    for axis, shares, values in (
        (age, ages(measured.rules, measured.steps), measured.age),
        (spread, updates(measured.rules, measured.steps), measured.updates),
    ):
        axis.plot(share_at_least(values, measured.steps), label=name, **count)
        axis.plot(at_least(shares), label="its closed form", **formula)
    mean.plot(measured.rules.per_cell, measured.updates.mean(), "*", color="black", ms=14, mec="white", zorder=5)


def label_demography(age: Axes, mean: Axes, axes: Mapping[int, Axes], steps: int) -> None:
    """Titles, units and ranges."""
    age.set(
        title=f"Age after {steps} steps", xlabel="age (steps)", ylabel="heads at least that old", ylim=(-0.03, 1.05)
    )
    mean.set(title=f"Mean updates of the heads alive after {steps} steps", yscale="log")
    mean.set(xlabel="heads drawn in a cell", ylabel="updates (mean)", xticks=list(axes))
    mean.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for draws, axis in axes.items():
        axis.set(title=f"Updates, {draws} drawn a cell", xlabel="updates")
    next(iter(axes.values())).set_ylabel("heads with at least so many")
    for axis in (age, *axes.values()):
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in (age, mean, *axes.values()):
        axis.grid(alpha=0.3)


def specialists(response: np.ndarray, damages: Sequence[str], t_star: Sequence[int]) -> Figure:
    """How much lower each cell's heads rate damaged pictures, in spreads of their rating: a map for each damage.

    Args:
        response: (damages, noise levels, views, feature levels), from `nitro_lab.studies.specialists.responses`.
    """
    _, noise_levels, views, levels = response.shape
    most = max(float(np.abs(response).max()), 1e-3)
    columns = 3
    rows = -(-len(damages) // columns)
    figure, axes = panels(rows, columns, (11, 3.3 * rows + 0.4), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(damages) :]:
        axis.set_visible(False)
    for axis, damage, values in zip(axes.flat, damages, response, strict=False):
        heat = values.transpose(1, 0, 2).reshape(views * noise_levels, levels)
        image = axis.imshow(heat, "PuOr", aspect="auto", vmin=-most, vmax=most)
        axis.set_title(damage)
        axis.set_yticks(range(views * noise_levels), [f"{t}" for _ in range(views) for t in t_star])
        axis.set_xticks(range(levels), range(1, levels + 1))
        axis.tick_params(length=0, labelsize=8)
        for view in range(1, views):
            axis.axhline(view * noise_levels - 0.5, color="white", lw=4)
        axis.spines[:].set_visible(False)
    for axis in axes[:, 0]:
        for view, name in enumerate(CHOICES[:views]):
            place = (-0.17, (view + 0.5) * noise_levels - 0.5)
            axis.text(
                *place,
                name.replace(" ", "\n"),
                transform=axis.get_yaxis_transform(),
                ha="center",
                va="center",
                rotation=90,
                fontsize=8,
            )
        axis.set_ylabel("view, and t*", labelpad=34)
    for axis in axes[-1]:
        axis.set_xlabel("feature level")
    figure.colorbar(image, ax=axes, pad=0.015, aspect=35).set_label("whole minus damaged (spreads of the logit)")
    return figure
