"""A map of the discriminator pool: one square per head, noise levels by rows, views and feature levels by columns."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from nitro_lab.plots.canvas import escape, panels

__all__ = ["QUANTITIES", "PoolMap", "pool_map", "sampled_heads"]

QUANTITIES = {  # title of the color scale, color map; scales of PuOr are symmetric around 0, others start there
    "age": ("age (steps)", "cividis_r"),
    "updates": ("updates since initialization", "cividis_r"),
    "logit_gap": ("mean logit gap (real − fake)", "PuOr"),
}


class PoolMap:
    """A map that can be updated quickly: `show` changes colors and markers only, and `png` redraws nothing else.

    Args:
        shape: (noise levels, views, feature levels, heads per cell).
        t_star: noise level of each row.
        views: names of the views.
        quantity: key of `QUANTITIES`.
        max_value: end of the color scale.
        levels: numbers of the feature levels; default: 0, 1, …
    """

    def __init__(
        self,
        shape: Sequence[int],
        t_star: Sequence[int],
        views: Sequence[str],
        quantity: str = "age",
        max_value: float = 1.0,
        levels: Sequence[int] | None = None,
    ):
        noise_levels, _, self.num_levels, self.heads_per_cell = shape
        self.rows, self.columns = noise_levels * self.heads_per_cell, len(views) * self.num_levels
        self.figure, self.axis = panels(1, 1, (0.29 * self.columns + 1.9, 0.24 * self.rows + 1.35))
        title, colors = QUANTITIES[quantity]
        low, extend = (-max_value, "both") if colors == "PuOr" else (0.0, "max")
        empty, options = np.zeros((self.rows, self.columns)), {"aspect": "auto", "animated": True}
        self.image = self.axis.imshow(empty, colors, vmin=low, vmax=max_value, **options)
        marker: dict[str, Any] = {"linestyle": "none", "mec": "black", "animated": True, "in_layout": False}
        (self.sampled,) = self.axis.plot([], [], "s", mfc="none", mew=1.3, ms=10.5, label="sampled", **marker)
        self.sampled.set_path_effects([patheffects.withStroke(linewidth=3.2, foreground="white")])
        (self.refreshed,) = self.axis.plot([], [], "X", mfc="white", ms=9, label="re-initialized", **marker)
        self._add_labels(t_star, views, range(self.num_levels) if levels is None else levels)
        scale = self.figure.colorbar(self.image, ax=self.axis, pad=0.015, aspect=30, extend=extend)
        scale.set_label(title, fontsize=9)
        handles = [self.sampled, self.refreshed]
        self.figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        self.background: Any = None

    def _add_labels(self, t_star: Sequence[int], views: Sequence[str], levels: Sequence[int]) -> None:
        axis, centers = self.axis, (np.arange(len(t_star)) + 0.5) * self.heads_per_cell - 0.5
        axis.set_xticks(range(self.columns), [str(level) for _ in views for level in levels])
        axis.set_yticks(centers, [f"t* = {t}" for t in t_star])
        axis.tick_params(length=0, labelsize=8)
        axis.set_xlabel("feature level (0: first convolution; the last is the mid block)", fontsize=9)
        for view, name in enumerate(views):
            center, text = (view + 0.5) * self.num_levels - 0.5, escape(name.replace("_", " "))
            axis.text(center, -0.8, text, ha="center", va="bottom", fontsize=10)
        line = {"color": "white", "lw": 5, "zorder": 1.5}
        self.gaps = [axis.axvline(view * self.num_levels - 0.5, **line) for view in range(1, len(views))]
        self.gaps += [axis.axhline(row * self.heads_per_cell - 0.5, **line) for row in range(1, len(t_star))]
        axis.spines[:].set_visible(False)

    def show(self, values: Tensor, sampled: Tensor | None = None, refreshed: Tensor | None = None) -> "PoolMap":
        """Color the heads by values of the pool's shape, and mark heads by their indices (k, 4)."""
        self.image.set_data(np.asarray(values).transpose(0, 3, 1, 2).reshape(self.rows, -1))
        for markers, heads in ((self.sampled, sampled), (self.refreshed, refreshed)):
            noise_level, view, level, place = (torch.empty(0, 4) if heads is None else heads).unbind(1)
            x, y = view * self.num_levels + level, noise_level * self.heads_per_cell + place
            markers.set_data(x.numpy(), y.numpy())
        return self

    def still(self) -> Figure:
        """Return the figure, to be shown once."""
        for artist in (self.image, self.sampled, self.refreshed):
            artist.set_animated(False)
        return self.figure

    def png(self, dpi: int = 80) -> bytes:
        """Encode the map as it is now. Labels and scale are drawn the first time only."""
        if self.background is None:
            self.figure.set_dpi(dpi)
            self.canvas = FigureCanvasAgg(self.figure)
            self.canvas.draw()
            self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.background)
        for artist in (self.image, *self.gaps, self.sampled, self.refreshed):
            self.figure.draw_artist(artist)
        file = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=1)
        return file.getvalue()


def pool_map(
    values: Tensor,
    quantity: str,
    t_star: Sequence[int],
    views: Sequence[str],
    sampled: Tensor | None = None,
    refreshed: Tensor | None = None,
    levels: Sequence[int] | None = None,
) -> Figure:
    """Plot values (noise levels, views, feature levels, heads per cell) of all heads; see `PoolMap`."""
    largest = max(values.abs().max().item(), 1e-3)
    return PoolMap(values.shape, t_star, views, quantity, largest, levels).show(values, sampled, refreshed).still()


def sampled_heads(noise_level: int, indices: Tensor) -> Tensor:
    """Indices (k, 4) of a panel's heads, from its noise level and its `indices` (V, L, n)."""
    view, level, order = torch.meshgrid(*map(torch.arange, indices.shape), indexing="ij")
    heads = torch.stack([torch.full_like(indices, noise_level), view, level, indices[view, level, order]], -1)
    return heads.reshape(-1, 4)
