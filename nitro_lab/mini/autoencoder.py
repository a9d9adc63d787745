"""Diffusers' autoencoder, with all of its convolutions at the resolution of the latents."""

import functools

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401 (pipelines that load this class look its base up here)
from diffusers.models.autoencoders.vae import DecoderOutput

__all__ = ["PATCH", "PatchAutoencoderKL"]

PATCH = 4  # pixels a side


class PatchAutoencoderKL(AutoencoderKL):
    """`AutoencoderKL` on patches: the 4×4 pixels of a patch are the channels of one latent position.

    Nothing runs at full resolution, so a training step costs a third of one of the plain class with the same widths.
    The config keeps three blocks, since pipelines compute the scale factor (2² = 4) from their number.
    """

    @functools.wraps(AutoencoderKL.__init__)  # type: ignore[misc]  # diffusers reads the options off the signature
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for block in self.encoder.down_blocks:
            block.downsamplers = None
        for block in self.decoder.up_blocks:
            block.upsamplers = None
        self.tile_sample_min_size = self.tile_latent_min_size  # tiling sees patches: it cuts inside _encode and _decode

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return super()._encode(F.pixel_unshuffle(x, PATCH))

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple[torch.Tensor]:
        image = F.pixel_shuffle(super()._decode(z).sample, PATCH)
        return DecoderOutput(sample=image) if return_dict else (image,)
