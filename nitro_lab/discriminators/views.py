"""Views: which part of a noisy latent a discriminator sees, and whether the backbone gets the prompt.

A view is a function (latents, embeds, empty_embeds, generator) -> (latents, embeds) for noisy latents (B, C, h, w). It
may return more rows than it gets, each group of B in the batch's order. Crops depend on the generator only, so real and
fake samples can be given the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds

__all__ = ["PAPER_VIEWS", "VIEWS", "GlobalView", "LocalView", "View", "make_view"]

View = Callable[[Tensor, PromptEmbeds, PromptEmbeds, Generator], tuple[Tensor, PromptEmbeds]]

PAPER_VIEWS = ("global_conditional", "local_conditional", "local_unconditional")
VIEWS = (*PAPER_VIEWS, "global_unconditional")


@dataclass(frozen=True)
class GlobalView:
    """The whole latent."""

    conditional: bool = True  # False: the backbone gets the empty prompt

    def __call__(
        self, latents: Tensor, embeds: PromptEmbeds, empty_embeds: PromptEmbeds, generator: Generator
    ) -> tuple[Tensor, PromptEmbeds]:
        """Return latents (B, C, h, w) unchanged."""
        return latents, embeds if self.conditional else empty_embeds


@dataclass(frozen=True)
class LocalView:
    """Square crops at random places; the paper states neither their size nor their number."""

    conditional: bool = True  # False: the backbone gets the empty prompt
    size: int = 8  # in latent pixels
    crops: int = 2  # of each image

    def __call__(
        self, latents: Tensor, embeds: PromptEmbeds, empty_embeds: PromptEmbeds, generator: Generator
    ) -> tuple[Tensor, PromptEmbeds]:
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
    """Return one of `VIEWS`; the crop settings are used by local views.

    Raises:
        ValueError: if there is no such view.
    """
    if name not in VIEWS:
        raise ValueError(f"There is no view {name!r}; choose from {', '.join(VIEWS)}.")
    conditional = name.endswith("_conditional")
    return GlobalView(conditional) if name.startswith("global") else LocalView(conditional, crop_size, crops_per_image)
