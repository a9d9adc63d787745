"""Views: which part of a noisy latent a discriminator sees, and whether the backbone gets the prompt.

A view is a function (latents, embeds, empty_embeds, generator) -> (latents, embeds) for noisy latents (B, C, h, w). It
may return more rows than it gets, each group of B in the batch's order. Crops depend on the generator only, so real and
fake samples can be given the same.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nitro_lab.backbones import Backbone
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds

__all__ = ["PAPER_VIEWS", "VIEWS", "GlobalView", "LocalView", "View", "make_view", "view_features"]

Seen = tuple[Tensor, PromptEmbeds]  # what the backbone gets
View = Callable[[Tensor, PromptEmbeds, PromptEmbeds, Generator], Seen]

PAPER_VIEWS = ("global_conditional", "local_conditional", "local_unconditional")
VIEWS = (*PAPER_VIEWS, "global_unconditional")


@dataclass(frozen=True)
class GlobalView:
    """The whole latent."""

    conditional: bool = True  # False: the backbone gets the empty prompt

    def __call__(self, latents: Tensor, embeds: PromptEmbeds, empty_embeds: PromptEmbeds, generator: Generator) -> Seen:
        """Return latents (B, C, h, w) unchanged."""
        return latents, embeds if self.conditional else empty_embeds


@dataclass(frozen=True)
class LocalView:
    """Square crops at random places; the paper states neither their size nor their number."""

    conditional: bool = True  # False: the backbone gets the empty prompt
    size: int = 8  # in latent pixels
    crops: int = 2  # of each image

    def __call__(self, latents: Tensor, embeds: PromptEmbeds, empty_embeds: PromptEmbeds, generator: Generator) -> Seen:
        """Crop latents (B, C, h, w) to (crops·B, C, size, size): first every image's first crop, and so on."""
        height, width = latents.shape[2:]
        if self.size > min(height, width):
            raise ValueError(f"Crops of size {self.size} do not fit latents of {height}×{width}; use a smaller size.")
        crops = []
        for _ in range(self.crops):
            top, left = (randint_below(side - self.size + 1, generator) for side in (height, width))
            crops.append(latents[:, :, top : top + self.size, left : left + self.size])
        rows = torch.arange(len(latents), device=latents.device).repeat(self.crops)
        return torch.cat(crops), (embeds if self.conditional else empty_embeds)[rows]


def make_view(name: str, crop_size: int, crops_per_image: int) -> View:
    """Return one of `VIEWS`, else a ValueError; the crop settings are used by local views."""
    if name not in VIEWS:
        raise ValueError(f"There is no view {name!r}; choose from {', '.join(VIEWS)}.")
    conditional = name.endswith("_conditional")
    return GlobalView(conditional) if name.startswith("global") else LocalView(conditional, crop_size, crops_per_image)


def view_features(
    latents: Tensor,
    timesteps: Tensor,
    embeds: PromptEmbeds,
    empty_embeds: PromptEmbeds,
    views: Mapping[str, View],
    backbone: Backbone,
    feature_indices: Sequence[int],
    all_levels: bool,
    generator: Generator,
    selected: Sequence[int] = (),
) -> list[ViewFeatures]:
    """Float32 features of each view of latents (B, C, h, w), which were noised to timesteps (B,).

    Args:
        feature_indices: feature levels of the backbone that are kept.
        all_levels: for heads that see all of them: one list of maps.
        generator: of the crops.
        selected: indices of the views; empty: all. The crops of a view do not depend on it.
    """
    inputs = [view(latents, embeds, empty_embeds, generator) for view in views.values()]
    chosen, features = list(selected or range(len(inputs))), {}
    for shape in {inputs[index][0].shape: None for index in chosen}:  # views of one shape share a pass
        same = [index for index in chosen if inputs[index][0].shape == shape]
        rows, together = timesteps.repeat(shape[0] // len(latents)), _join([inputs[index] for index in same])
        maps = backbone(together[0], rows.repeat(len(same)), together[1])
        levels = [maps[level].float().chunk(len(same)) for level in feature_indices]
        for place, index in enumerate(same):
            mine = [level[place] for level in levels]
            pooled = inputs[index][1].pooled_prompt_embeds.float()
            features[index] = ViewFeatures([mine] if all_levels else mine, pooled, rows, index, feature_indices)
    return [features[index] for index in chosen]


def _join(views: Sequence[Seen]) -> Seen:
    """The rows of several views."""
    if len(views) == 1:
        return views[0]
    fields = zip(*(vars(embeds).values() for _, embeds in views), strict=True)
    return torch.cat([latents for latents, _ in views]), PromptEmbeds(*map(torch.cat, fields))
