"""Who notices what? Pictures are damaged in one way each, and every critic's answer is compared with that to the whole.

A picture and its damaged twin are drawn by the same dice, so nothing else differs: not the place of a star, not the
tilt of the object, not the noise that takes both to t*, not the crops.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import reduce

from nitro_lab.distill_config import DistillConfig
from nitro_lab.judging import look
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, caption
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.sampling import encode, encode_prompts
from nitro_lab.studio import Training

TEXTURES, COLORS, PLACES = (len(FACTORS[name]) for name in ("texture", "color", "place"))
TEXTURE, COLOR, PLACE = (list(FACTORS).index(name) for name in ("texture", "color", "place"))
BLUR = 1.0  # standard deviation of the Gaussian, in pixels
BATCH = 32


@dataclass(frozen=True)
class Damaged:
    """Pictures (N, 3, 64, 64) in [-1, 1], and what the critics are told of them."""

    pictures: torch.Tensor
    captions: list[str]


def draw_scenes(scenes: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 6) scenes out of (M, 6), with every texture equally often, so that textures can be swapped among them.

    Raises:
        ValueError: if the count is not a multiple of the number of textures.
    """
    if count % TEXTURES:
        raise ValueError(
            f"count is {count}; it must be a multiple of {TEXTURES}, for each texture to come equally often."
        )
    rows = []
    for texture in range(TEXTURES):
        candidates = scenes[scenes[:, TEXTURE] == texture]
        rows.append(candidates[torch.randperm(len(candidates), generator=generator)[: count // TEXTURES]])
    return torch.cat(rows)


def damage(scenes: torch.Tensor, seed: int) -> tuple[Damaged, dict[str, Damaged]]:
    """Whole pictures of scenes (N, 6) from `draw_scenes`, and the same with one thing wrong.

    "color", "place" and "texture" are drawn as another value than the caption says; "blur" is a Gaussian of standard
    deviation `BLUR`; "repetition" is a second, smaller object; "caption" is the whole picture under another's words.
    """
    captions = [caption(scene) for scene in scenes]
    whole = draw(scenes, seed)
    pictures = {
        "color": draw(changed(scenes, COLOR, COLORS // 2, COLORS), seed),
        "place": draw(changed(scenes, PLACE, 1, PLACES), seed),
        "texture": draw(changed(scenes, TEXTURE, 1, TEXTURES), seed),
        "blur": blur(whole),
        "repetition": draw(scenes, seed, copies=2),
    }
    damaged = {name: Damaged(images, captions) for name, images in pictures.items()}
    step = len(scenes) // TEXTURES  # the words of a scene of another texture, at the least
    return Damaged(whole, captions), damaged | {"caption": Damaged(whole, captions[step:] + captions[:step])}


def changed(scenes: torch.Tensor, factor: int, by: int, values: int) -> torch.Tensor:
    """The scenes with one factor moved on to another of its values."""
    other = scenes.clone()
    other[:, factor] = (other[:, factor] + by) % values
    return other


def draw(scenes: torch.Tensor, seed: int, copies: int = 1) -> torch.Tensor:
    """(N, 3, 64, 64), by dice that fall alike for one object and for two, and whatever the factors are.

    The renderer throws dice for a second object as soon as one picture of the batch has one, and throws those of a
    texture for all of its pictures at once. So one more scene with two objects comes along, and is dropped.
    """
    counts = torch.tensor([copies] * len(scenes) + [2])
    return render(torch.cat([scenes, scenes.new_zeros(1, len(FACTORS))]), torch.Generator().manual_seed(seed), counts)[
        :-1
    ]


def blur(pictures: torch.Tensor, deviation: float = BLUR) -> torch.Tensor:
    """A Gaussian over (N, 3, H, W), in pixels; the edge is repeated outwards."""
    reach = int(3 * deviation + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=pictures.device) / deviation) ** 2)
    kernel = (weights / weights.sum()).expand(pictures.shape[1], 1, 1, -1)
    padded = F.pad(pictures, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))


@torch.no_grad()
def responses(
    training: Training,
    pools: Mapping[str, DiscriminatorPool],
    whole: Damaged,
    damaged: Mapping[str, Damaged],
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """How much lower each cell's heads rate damaged pictures, in spreads of their rating.

    Returns:
        For each pool (damages, noise levels, views, feature levels): the mean logit of the whole pictures minus that of
        the damaged ones, divided by the standard deviation of the logit over the whole pictures, mean over the slots.
        Positive: the cell prefers the whole picture.
    """
    answers = {
        name: torch.stack(rate(training, pools, images, seed)) for name, images in {"": whole, **damaged}.items()
    }
    reference = answers.pop("")  # (pools, noise levels, views, levels, slots, N)
    spread = reference.std(-1).clamp(min=1e-6)
    drops = [(reference.mean(-1) - answer.mean(-1)) / spread for answer in answers.values()]
    every = torch.stack(drops, 1).mean(-1).cpu().numpy()
    return dict(zip(pools, every, strict=True))


def rate(training: Training, pools: Mapping[str, DiscriminatorPool], images: Damaged, seed: int) -> list[torch.Tensor]:
    """The logit that every head of each pool gives each picture: (noise levels, views, levels, slots, N) for a pool."""
    generator = torch.Generator().manual_seed(seed)  # on the CPU, and the same for every damage
    x0 = encode(training.pipe, images.pictures.to(training.pipe.device), BATCH)
    told = encode_prompts(training.pipe, images.captions)
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    batches = []
    for start in range(0, len(x0), BATCH):
        rows = slice(start, start + BATCH)
        by_noise = []
        for noise_level, t_star in enumerate(training.config.t_star):
            maps = look(training, x0[rows], told[rows], noise[rows], t_star, crops=seed + start)
            by_noise.append([score_cells(pool, noise_level, maps, len(x0[rows])) for pool in pools.values()])
        batches.append([torch.stack(levels) for levels in zip(*by_noise, strict=True)])
    return [torch.cat(parts, -1) for parts in zip(*batches, strict=True)]


def score_cells(
    pool: DiscriminatorPool, noise_level: int, maps: Sequence[Sequence[torch.Tensor]], images: int
) -> torch.Tensor:
    """Mean logit an image of all heads of a noise level (views, levels, slots, images). Nothing is drawn or changed."""
    slots = torch.arange(pool.shape[-1])
    cells = []
    for view, features in enumerate(maps):
        for level, feature in enumerate(features):
            weights = pool.state(level)[0][pool.row(noise_level, view, slots)]
            text = getattr(features, "pooled", None)
            logits, crops = pool.heads[level].score(weights, feature, text), len(feature) // images
            ways = "slots (crops images places) -> slots images"
            cells.append(reduce(logits, ways, "mean", crops=crops, images=images))
    return torch.stack(cells).view(len(maps), -1, len(slots), images)


def untrained(pool: DiscriminatorPool, seed: int = 0) -> DiscriminatorPool:
    """A pool of the same shape that has learned nothing: what its heads prefer, they prefer by chance."""
    twin = deepcopy(pool)
    twin.generator.manual_seed(seed)
    twin.replace(torch.cartesian_prod(*map(torch.arange, pool.shape)))
    return twin


def share_of_variance(response: np.ndarray) -> dict[str, float]:
    """How much of the differences among the cells of one damage each coordinate explains by its means alone (η²).

    Args:
        response: (noise levels, views, feature levels). What the three leave over is their interplay, and chance.
    """
    total = response.var()
    names = ("noise level", "view", "feature level")
    means = [response.mean(tuple({0, 1, 2} - {axis})) for axis in range(3)]
    return {name: float(mean.var() / total) if total else 0.0 for name, mean in zip(names, means, strict=True)}


def strongest(response: np.ndarray) -> tuple[int, ...]:
    """Indices of the cell that answers a damage most, in either direction."""
    return tuple(int(i) for i in np.unravel_index(np.abs(response).argmax(), response.shape))


def name_cell(cell: Sequence[int], config: DistillConfig) -> str:
    """A cell (noise level, view, feature level) in words."""
    noise_level, view, level = cell
    return f"t* = {config.t_star[noise_level]}, {config.views[view]}, level {level + 1}"
