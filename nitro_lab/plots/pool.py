"""The pool as a map: one square a head, the noise levels and slots down the page, the views and feature levels across.

The map is made once; `show` changes its colours and marks, and `png` redraws nothing else, so that it can follow a
training step by step.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from nitro_lab.plots.canvas import panels
from nitro_lab.views import CHOICES


@dataclass(frozen=True)
class Quantity:
    """What colours the squares. symmetric: around 0, else from 0 upwards."""

    title: str
    colors: str
    symmetric: bool = False


QUANTITIES = {
    "age": Quantity("age (steps)", "cividis_r"),
    "updates": Quantity("updates in this life", "cividis_r"),
    "margin": Quantity("mean margin (logit of reals − of fakes)", "PuOr", symmetric=True),
}


class PoolMap:
    """A map of a pool of some shape (noise levels, views, feature levels, slots), coloured by one of `QUANTITIES`.

    Args:
        t_star: names of the noise levels.
        most: the colour scale's end.
        names: of the views, in the pool's order.
    """

    def __init__(
        self,
        shape: Sequence[int],
        t_star: Sequence[int],
        quantity: str = "age",
        most: float = 1.0,
        names: Sequence[str] = CHOICES,
    ):
        self.noise_levels, self.views, self.levels, self.slots = shape
        self.quantity = QUANTITIES[quantity]
        self.figure, self.axis = panels(1, 1, (0.29 * self.views * self.levels + 1.9, 0.24 * self.rows + 1.35))
        low = -most if self.quantity.symmetric else 0.0
        empty = np.zeros((self.rows, self.views * self.levels))
        self.image = self.axis.imshow(empty, self.quantity.colors, aspect="auto", vmin=low, vmax=most, animated=True)
        common = {"linestyle": "none", "animated": True, "in_layout": False}
        (self.drawn,) = self.axis.plot([], [], "s", mfc="none", mec="black", mew=1.3, ms=10.5, label="drawn", **common)
        self.drawn.set_path_effects([patheffects.withStroke(linewidth=3.2, foreground="white")])  # seen on any colour
        (self.gone,) = self.axis.plot([], [], "X", mfc="white", mec="black", ms=9, label="thrown out", **common)
        self.furnish(t_star, names[: self.views])
        self.background: object = None

    @property
    def rows(self) -> int:
        """Squares down the page."""
        return self.noise_levels * self.slots

    def furnish(self, t_star: Sequence[int], names: Sequence[str]) -> None:
        """Names, colour scale, and gaps between the groups."""
        axis, levels = self.axis, self.levels
        axis.set_xticks(
            range(self.views * levels), [f"{level + 1}" for _ in range(self.views) for level in range(levels)]
        )
        axis.set_yticks([self.slots * (i + 0.5) - 0.5 for i in range(self.noise_levels)], [f"t* = {t}" for t in t_star])
        axis.tick_params(length=0, labelsize=8)
        axis.set_xlabel("feature level: 1 is the first convolution, the last is the mid block", fontsize=9)
        for view, name in enumerate(names):
            axis.text((view + 0.5) * levels - 0.5, -0.8, name, ha="center", va="bottom", fontsize=10)
        gap = {"color": "white", "lw": 5, "zorder": 1.5}
        self.gaps = [axis.axvline(view * levels - 0.5, **gap) for view in range(1, self.views)]
        self.gaps += [axis.axhline(i * self.slots - 0.5, **gap) for i in range(1, self.noise_levels)]
        axis.spines[:].set_visible(False)
        ends = "both" if self.quantity.symmetric else "max"  # what lies beyond has the colour of the end
        scale = self.figure.colorbar(self.image, ax=axis, pad=0.015, aspect=30, extend=ends)
        scale.set_label(self.quantity.title, fontsize=9)
        self.figure.legend(
            handles=[self.drawn, self.gone], loc="outside lower center", ncols=2, frameon=False, fontsize=9
        )

    def show(
        self, values: np.ndarray, drawn: torch.Tensor | None = None, gone: torch.Tensor | None = None
    ) -> "PoolMap":
        """Colour by values of the pool's shape, and mark the heads at indices (k, 4)."""
        self.image.set_data(values.transpose(0, 3, 1, 2).reshape(self.rows, -1))
        for marks, heads in ((self.drawn, drawn), (self.gone, gone)):
            noise_level, view, level, slot = (torch.empty(0, 4) if heads is None else heads).unbind(1)
            marks.set_data((view * self.levels + level).numpy(), (noise_level * self.slots + slot).numpy())
        return self

    def still(self) -> Figure:
        """The figure, to be shown once."""
        for artist in (self.image, self.drawn, self.gone):
            artist.set_animated(False)
        return self.figure

    def png(self, dpi: int = 80) -> bytes:
        """The map as it is now, as a file. Everything but colours and marks is drawn the first time only."""
        if self.background is None:
            self.figure.set_dpi(dpi)
            self.canvas = FigureCanvasAgg(self.figure)
            self.canvas.draw()
            self.background = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self.background)
        for artist in (self.image, *self.gaps, self.drawn, self.gone):
            self.figure.draw_artist(artist)
        file = io.BytesIO()
        Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3]).save(file, "png", compress_level=1)
        return file.getvalue()


def pool_map(
    values: np.ndarray,
    quantity: str,
    t_star: Sequence[int],
    drawn: torch.Tensor | None = None,
    gone: torch.Tensor | None = None,
) -> Figure:
    """A still map of values (noise levels, views, feature levels, slots); see `PoolMap`."""
    most = max(float(np.abs(values).max()), 1e-3)
    return PoolMap(values.shape, t_star, quantity, most).show(values, drawn, gone).still()


def drawn_heads(noise_level: int, slots: torch.Tensor) -> torch.Tensor:
    """Indices (k, 4) of a panel's heads, from its noise level and its slots (views, feature levels, heads a cell)."""
    view, level, order = torch.meshgrid(*map(torch.arange, slots.shape), indexing="ij")
    heads = torch.stack([torch.full_like(slots, noise_level), view, level, slots[view, level, order]], -1)
    return heads.reshape(-1, 4)
