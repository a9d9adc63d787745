"""What a critic gets to see: the whole latent or patches of it, with the prompt or without.

A view is a function (latents, conditioning, empty, generator) -> (latents, conditioning): noisy latents (B, C, h, w)
and what the backbone is told. It may return more rows than it got, image by image. One draw places the crops of a whole
batch, so the real and the fake batch of a step, and every process, can be given the same.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nitro_lab.randomness import random_below
from nitro_lab.sampling import Conditioning

Seen = tuple[torch.Tensor, Conditioning]
View = Callable[[torch.Tensor, Conditioning, Conditioning, torch.Generator], Seen]


@dataclass(frozen=True)
class Whole:
    """The whole latent, as it is."""

    conditional: bool = True  # the backbone sees the prompt; False: the empty prompt

    def __call__(
        self, latents: torch.Tensor, conditioning: Conditioning, empty: Conditioning, generator: torch.Generator
    ) -> Seen:
        """(B, C, h, w) -> the same."""
        return latents, conditioning if self.conditional else empty


@dataclass(frozen=True)
class Crops:
    """Square patches at random places; the paper states neither their size nor their number."""

    conditional: bool = True
    size: int = 8  # latent pixels a side
    number: int = 2  # for each image

    def __call__(
        self, latents: torch.Tensor, conditioning: Conditioning, empty: Conditioning, generator: torch.Generator
    ) -> Seen:
        """(B, C, h, w) -> (number·B, C, size, size), all images' first crops first.

        Raises:
            ValueError: if a patch is larger than the latent.
        """
        height, width = latents.shape[2:]
        if self.size > min(height, width):
            raise ValueError(
                f"Crops of size {self.size} do not fit into latents of {height}×{width}; make size smaller."
            )
        crops = []
        for _ in range(self.number):
            top, left = (random_below(room - self.size + 1, generator) for room in (height, width))
            crops.append(latents[:, :, top : top + self.size, left : left + self.size])
        rows = torch.arange(len(latents), device=latents.device).repeat(self.number)
        return torch.cat(crops), (conditioning if self.conditional else empty)[rows]


PAPER_VIEWS = ("global conditional", "local conditional", "local unconditional")
CHOICES = (*PAPER_VIEWS, "global unconditional")  # the paper has no such heads; here one can see what they would do


def make_view(name: str, size: int, number: int) -> View:
    """One of `CHOICES`; the local ones look at so many crops of this size."""
    reach, _, words = name.partition(" ")
    conditional = words == "conditional"
    return Whole(conditional) if reach == "global" else Crops(conditional, size, number)
