"""Figures of the discriminators: their features, ages and updates, what they detect, and curves of recorded runs."""

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

from nitro_lab.discriminators.losses import GAN_LOSSES
from nitro_lab.plots.canvas import PALETTE, escape, panels, picture_grid, to_pil
from nitro_lab.plots.training import plot_logit_gaps, plot_running_mean, uninformed_label
from workbook.pool_dynamics import HeadCounts, age_distribution, mean_updates, update_distribution
from workbook.reference_runs import Run, describe, last_quarter

__all__ = ["damage_responses", "feature_maps", "pool_dynamics", "principal_colors", "reference_curves"]


def feature_maps(images: Mapping[str, torch.Tensor], maps: Mapping[str, Sequence[torch.Tensor]]) -> Figure:
    """Plot the features [(1, C_l, h_l, w_l)] of noisy latents beside the decoded latents (1, 3, H, W) in [-1, 1].

    Red, green and blue are the three principal components of a feature level over all rows together, so equal colors
    in a column mean equal features.
    """
    levels = [principal_colors(torch.cat(level)) for level in zip(*maps.values(), strict=True)]
    rows = {
        name: [*to_pil(image), *(to_pil(level[row : row + 1])[0] for level in levels)]
        for row, (name, image) in enumerate(images.items())
    }
    shapes = [level.shape[1:] for level in next(iter(maps.values()))]
    titles = [f"level {index}\n{c}×\n{h}×{w}" for index, (c, h, w) in enumerate(shapes)]
    return picture_grid(rows, ["noisy latent, decoded", *titles], size=0.98)


def principal_colors(maps: torch.Tensor) -> torch.Tensor:
    """Project features (N, C, h, w) to three principal components (N, 3, h, w), scaled to [-1, 1] by percentiles."""
    count, _, height, width = maps.shape
    points = rearrange(maps.float(), "n c h w -> (n h w) c")
    points = points - points.mean(0)
    _, _, directions = torch.linalg.svd(points, full_matrices=False)
    values = points @ directions[:3].T
    low, high = values.quantile(0.02, 0), values.quantile(0.98, 0)
    scaled = ((values - low) / (high - low).clamp(min=1e-6)).clamp(0, 1) * 2 - 1
    return rearrange(scaled, "(n h w) c -> n c h w", n=count, h=height, w=width)


def pool_dynamics(simulated: Sequence[HeadCounts], measured: HeadCounts | None = None) -> Figure:
    """Plot ages and updates of all heads: closed forms (lines), simulations (dots), and a training run (black).

    `simulated` holds one for each pair of refresh rate and sampled heads per cell, of the same number of steps.
    """
    steps = simulated[0].steps
    samples = sorted({counts.pool.sampled_heads_per_cell for counts in simulated})
    colors = dict(zip(sorted({counts.pool.refresh_rate for counts in simulated}), PALETTE, strict=False))
    mosaic: Any = [["age"] * len(samples) + ["mean"] * len(samples), [n for n in samples for _ in range(2)]]
    figure, axes = plt.subplot_mosaic(mosaic, figsize=(11, 6.8), layout="constrained")
    plt.close(figure)
    for n in samples:
        axes[n].set(title=f"{n} sampled per cell", xlabel="updates")
    axes[samples[0]].set_ylabel("heads with at least as many")
    axes["age"].set(title=f"Age after {steps} steps", xlabel="age (steps)", ylabel="heads of at least this age")
    axes["mean"].set(title=f"Mean updates after {steps} steps", xlabel="sampled heads per cell", ylabel="updates")
    for axis in (axes["age"], *(axes[n] for n in samples)):
        axis.set_ylim(-0.03, 1.05)
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    axes["mean"].set(yscale="log", xticks=samples)
    axes["mean"].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for counts in simulated:
        pool, color = counts.pool, colors[counts.pool.refresh_rate]
        label = f"refresh rate {pool.refresh_rate:g}" if pool.sampled_heads_per_cell == samples[0] else None
        _plot_counts(axes, counts, label, color=color)
        means = [mean_updates(replace(pool, sampled_heads_per_cell=n), steps) for n in samples]
        axes["mean"].plot(samples, means, color=color, lw=1.5)
    if measured is not None:
        name = f"{measured.pool.refresh_rate:g}, {measured.pool.sampled_heads_per_cell} sampled per cell"
        _plot_counts(axes, measured, f"this run: refresh rate {name}", color="black", linestyle="--")
    figure.legend(*axes["age"].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _plot_counts(axes: Mapping[Any, Axes], counts: HeadCounts, label: str | None, **style: Any) -> None:
    """Plot the closed form as a line and the counts as dots, 25 per axis; ages only with a label."""
    pool, steps, sampled = counts.pool, counts.steps, counts.pool.sampled_heads_per_cell
    limit = min(round(1.8 * pool.update_probability * steps) + 1, steps)
    rows = [(axes[sampled], update_distribution(pool, steps), counts.updates, limit)]
    if label:
        rows.append((axes["age"], age_distribution(pool, steps), counts.age, steps))
    for axis, distribution, values, end in rows:
        x = np.unique(np.linspace(0, end, 25).round().astype(int))
        observed = np.bincount(values, minlength=steps + 1) / len(values)
        axis.plot(distribution[::-1].cumsum()[::-1], label=label, lw=1.5, **style)  # P(≥ 0), P(≥ 1), …
        axis.plot(x, observed[::-1].cumsum()[::-1][x], "o", ms=4, color=style["color"])
        axis.set_xlim(-0.02 * end, 1.02 * end)
        axis.grid(visible=True, alpha=0.3)
    axes["mean"].plot(sampled, counts.updates.mean(), "o", ms=6, color=style["color"])


def damage_responses(response: np.ndarray, damages: Sequence[str], *labels: Sequence) -> Figure:
    """Plot a heat map of responses (damages, noise levels, views, feature levels) for each damage.

    See `workbook.damage.responses`; `labels` are those of the noise levels, views and feature levels.
    """
    t_star, views, levels = labels
    limit, rows = max(float(np.abs(response).max()), 1e-3), -(-len(damages) // 3)
    figure, axes = panels(rows, 3, (11, 3.3 * rows + 0.4), sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(damages) :]:
        axis.set_visible(False)
    for axis, damage, values in zip(axes.flat, damages, response, strict=False):
        heat = rearrange(values, "noise view level -> (view noise) level")
        image = axis.imshow(heat, "PuOr", aspect="auto", vmin=-limit, vmax=limit)
        axis.set_title(damage)
        axis.set_xticks(range(len(levels)), levels)
        axis.set_yticks(range(len(heat)), [f"{escape(v.replace('_', ' '))}, {t}" for v in views for t in t_star])
        axis.tick_params(length=0, labelsize=8)
        axis.hlines(np.arange(1, len(views)) * len(t_star) - 0.5, *axis.get_xlim(), color="white", lw=4)
        axis.spines[:].set_visible(False)
        axis.set(xlabel="feature level", ylabel="view, t*")
        axis.label_outer()
    figure.colorbar(image, ax=axes, pad=0.015, aspect=35).set_label("undamaged − damaged (std of the logit)")
    return figure


def reference_curves(runs: Mapping[str, Run], window: int = 25) -> Figure:
    """Plot losses, logit gaps and gradient norms of one or more runs, a row each, on the same scales.

    The last quarter is gray, its mean in the corner, its description above. `window`: steps of the running mean.
    """
    if not runs:
        raise ValueError("runs is empty; give at least one, from read_runs or as Run(reports, gan_loss).")
    figure, grid = panels(len(runs), 4, (13, 2.7 * len(runs) + 0.4), sharey="col", squeeze=False)
    for (name, run), axes in zip(runs.items(), grid, strict=True):
        title = f"{escape(': '.join(filter(None, (name, run.description))))}\n{describe(run)}"
        axes[0].text(0, 1.03, title, va="bottom", transform=axes[0].transAxes, in_layout=False)
        axes[0].set_title(" \n ")  # keeps space for the text, which is as wide as the row
        _plot_run(axes, run, window)
    for axis in grid[0, :3]:
        if max(map(abs, axis.get_ylim())) > 5:
            axis.set_yscale("symlog", linthresh=1)
    for axis in grid[-1]:
        axis.set_xlabel("step")
    lines = {line.get_label(): line for axis in grid.flat for line in axis.lines if line.get_label()[0] != "_"}
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=7, frameon=False, fontsize=9)
    return figure


def _plot_run(axes: Sequence[Axes], run: Run, window: int) -> None:
    """Plot one run on four axes."""
    step, end = run.reports["step"], run.reports["step"].max()
    updated = run.reports["grad_norm"].where(run.reports["grad_norm"] > 0)  # 0 where only the heads were updated
    columns = run.reports[["disc_loss", "student_loss", "logit_gap"]].assign(grad_norm=updated)
    for axis, name in zip(axes, columns, strict=True):
        if name == "logit_gap":
            plot_logit_gaps(axis, run.reports, window, PALETTE[2:])
        else:
            plot_running_mean(axis, step, columns[name], window, "all noise levels", PALETTE[0])
        axis.axvspan(end - (end - step.min()) / 4, end, color="0.93", zorder=0)
        mean, box = last_quarter(columns[name]).mean(), {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1.5}
        axis.text(0.98, 0.96, f"{mean:.3g}", transform=axis.transAxes, ha="right", va="top", fontsize=9, bbox=box)
        axis.set_ylabel(name.replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
    axes[3].set_yscale("log")
    loss, style = GAN_LOSSES[run.gan_loss].uninformed_loss, "--" if run.gan_loss == "hinge" else ":"
    axes[0].axhline(loss, color=PALETTE[1], linestyle=style, lw=1.6, label=uninformed_label(loss))
    axes[2].axhline(0, color="0.35", linestyle="--", lw=1.2, label="0: no difference between real and fake")
