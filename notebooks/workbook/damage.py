"""Which heads detect which kind of damage? Images are damaged in one way each, and every head scores both versions.

Both are rendered with the same random numbers, and noised and cropped alike, so that nothing else differs.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from nitro_lab.discriminators.pool import DiscriminatorPool
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, caption
from nitro_lab.sampling import encode, encode_prompts
from nitro_lab.training.batch import extract_features
from nitro_lab.training.state import TrainState

__all__ = [
    "CaptionedImages",
    "balanced_scenes",
    "damage",
    "explained_variance",
    "responses",
    "strongest_cell",
    "untrained_copy",
]

_BATCH = 32
_NUM_TEXTURES = len(FACTORS["texture"])


class CaptionedImages(NamedTuple):
    """Images (N, 3, 64, 64) in [-1, 1] and their captions."""

    images: torch.Tensor
    captions: list[str]


def balanced_scenes(scenes: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Sample (count, 6) of scenes (M, 6), ordered by texture, with every texture equally often."""
    if count % _NUM_TEXTURES:
        raise ValueError(f"count is {count}; it must be a multiple of {_NUM_TEXTURES}, the number of textures.")
    rows = []
    for texture in range(_NUM_TEXTURES):
        candidates = scenes[scenes[:, list(FACTORS).index("texture")] == texture]
        rows.append(candidates[torch.randperm(len(candidates), generator=generator)[: count // _NUM_TEXTURES]])
    return torch.cat(rows)


def damage(scenes: torch.Tensor, seed: int) -> tuple[CaptionedImages, dict[str, CaptionedImages]]:
    """Render scenes (N, 6) from `balanced_scenes`, undamaged and with each kind of damage.

    "color", "place" and "texture" differ from the caption; "blur" has σ = 1 pixel; "repetition" adds a second object;
    "caption" is the undamaged image with the caption of another texture.
    """
    captions = [caption(scene) for scene in scenes]
    undamaged = _render(scenes, seed)
    images = {
        "color": _render(scenes, seed, "color", len(FACTORS["color"]) // 2),
        "place": _render(scenes, seed, "place", 1),
        "texture": _render(scenes, seed, "texture", 1),
        "blur": torch.from_numpy(gaussian_filter(undamaged.numpy(), (0, 0, 1, 1), truncate=3, mode="nearest")),
        "repetition": _render(scenes, seed, objects=2),
    }
    damaged = {name: CaptionedImages(batch, captions) for name, batch in images.items()}
    shift = len(scenes) // _NUM_TEXTURES
    damaged["caption"] = CaptionedImages(undamaged, captions[shift:] + captions[:shift])
    return CaptionedImages(undamaged, captions), damaged


def _render(scenes: torch.Tensor, seed: int, factor: str = "color", shift: int = 0, objects: int = 1) -> torch.Tensor:
    """Render scenes with one factor shifted to another value, always from the same random numbers."""
    scenes, column = torch.cat([scenes, scenes.new_zeros(1, len(FACTORS))]), list(FACTORS).index(factor)
    scenes[:-1, column] = (scenes[:-1, column] + shift) % len(FACTORS[factor])
    counts = torch.tensor([objects] * (len(scenes) - 1) + [2])  # the renderer draws numbers for the maximum
    return render(scenes, torch.Generator().manual_seed(seed), counts)[:-1]


@torch.no_grad()
def responses(
    state: TrainState,
    pools: Mapping[str, DiscriminatorPool],
    undamaged: CaptionedImages,
    damaged: Mapping[str, CaptionedImages],
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Measure how much lower the heads of each cell score damaged images.

    Returns:
        For each pool (damages, noise levels, views, feature levels): mean logit of undamaged minus damaged images, in
        standard deviations over the undamaged ones, averaged over a cell's heads.
    """
    reference, *others = (_score(state, pools, batch, seed) for batch in (undamaged, *damaged.values()))
    spread = [logits.std(-1).clamp(min=1e-6) for logits in reference]
    drops = [
        torch.stack([(logits.mean(-1) - other[index].mean(-1)) / spread[index] for other in others]).mean(-1)
        for index, logits in enumerate(reference)
    ]
    return {name: drop.cpu().numpy() for name, drop in zip(pools, drops, strict=True)}


def _score(
    state: TrainState, pools: Mapping[str, DiscriminatorPool], batch: CaptionedImages, seed: int
) -> list[torch.Tensor]:
    """Each head's logit for each image: (noise levels, views, levels, heads per cell, N) for each pool."""
    x0 = encode(state.pipe, batch.images, _BATCH)
    embeds = encode_prompts(state.pipe, batch.captions)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed)).to(x0)
    scores = [x0.new_empty(*pool.shape, len(x0)) for pool in pools.values()]
    for start in range(0, len(x0), _BATCH):
        rows = slice(start, start + _BATCH)
        for noise_level, t_star in enumerate(state.config.t_star):
            features = extract_features(state, x0[rows], embeds[rows], noise[rows], t_star, seed + start)
            for score, pool in zip(scores, pools.values(), strict=True):
                cells = pool.all_heads(noise_level).score(features)
                crops = [len(feature) // len(x0[rows]) for view in features for feature in view.maps]
                pairs = zip(cells, crops, strict=True)
                means = [cell.unflatten(1, (count, len(x0[rows]), -1)).mean((1, 3)) for cell, count in pairs]
                score[noise_level, ..., rows] = torch.stack(means).view(*pool.shape[1:], -1)
    return scores


def untrained_copy(pool: DiscriminatorPool, seed: int = 0) -> DiscriminatorPool:
    """Return a pool of the same shape with new heads."""
    copy = deepcopy(pool)
    copy.generator.manual_seed(seed)
    copy.reinitialize(torch.cartesian_prod(*map(torch.arange, pool.shape)))
    return copy


def explained_variance(response: np.ndarray) -> dict[str, float]:
    """Fraction of the variance over cells (noise levels, views, feature levels) that each axis explains alone (η²)."""
    means = [response.mean(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    names = ("noise level", "view", "feature level")
    return {name: float(mean.var() / max(response.var(), 1e-12)) for name, mean in zip(names, means, strict=True)}


def strongest_cell(response: np.ndarray, *labels: Sequence) -> str:
    """Name the cell with the largest response, in either direction, by the labels of each axis."""
    cell = np.unravel_index(np.abs(response).argmax(), response.shape)
    t_star, view, level = (axis[index] for axis, index in zip(labels, cell, strict=True))
    return f"t* = {t_star}, {view.replace('_', ' ')}, level {level}"
