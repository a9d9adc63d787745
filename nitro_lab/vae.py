"""From latents to images and back, in batches that fit the memory, and where and in which dtype a module computes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL
from diffusers import StableDiffusionXLPipeline as Pipeline
from torch import Tensor, nn

__all__ = ["batch_size_at", "decode", "device_of", "encode", "like_weights"]


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes. The weights of one that is offloaded by accelerate's hooks are elsewhere."""
    parts = module.modules() if hasattr(module, "_hf_hook") else []
    devices = [getattr(part._hf_hook, "execution_device", None) for part in parts if hasattr(part, "_hf_hook")]
    return torch.device(next((x for x in devices if x is not None), next(module.parameters()).device))


def like_weights(module: nn.Module, x: Tensor) -> Tensor:
    """Move a tensor to where a module computes, and to the dtype of its parameters."""
    return x.to(device_of(module), next(module.parameters()).dtype)


@contextmanager
def _upcast_vae(vae: AutoencoderKL) -> Iterator[None]:
    """Upcast a float16 VAE with `force_upcast`, as diffusers' pipelines do: SDXL's overflows in float16."""
    if vae.dtype != torch.float16 or not vae.config.force_upcast:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)


@torch.no_grad()
def decode(pipe: Pipeline, latents: Tensor, batch_size: int | None = None) -> Tensor:
    """Decode latents (N, C, H, W) to images (N, 3, h, w) in [-1, 1], by default in batches of `batch_size_at`."""
    batch_size = batch_size or batch_size_at(latents.shape[-2] * latents.shape[-1] * pipe.vae_scale_factor**2)
    with _upcast_vae(pipe.vae):
        scaled = (like_weights(pipe.vae, x) / pipe.vae.config.scaling_factor for x in latents.split(batch_size))
        return torch.cat([pipe.vae.decode(batch).sample for batch in scaled]).clamp(-1, 1)


@torch.no_grad()
def encode(pipe: Pipeline, images: Tensor, batch_size: int | None = None) -> Tensor:
    """Encode images (N, 3, h, w) in [-1, 1] to latents (N, C, H, W): the posterior's mode, without noise."""
    batch_size = batch_size or batch_size_at(images.shape[-2] * images.shape[-1])
    with _upcast_vae(pipe.vae):
        batches = (like_weights(pipe.vae, batch) for batch in images.split(batch_size))
        latents = torch.cat([pipe.vae.encode(batch).latent_dist.mode() for batch in batches])
    return like_weights(pipe.vae, latents) * pipe.vae.config.scaling_factor


def batch_size_at(pixels: int) -> int:
    """Return how many images of so many pixels are sampled or decoded at once: 64 of 64×64, one of 512×512 or more.

    A UNet like SDXL's then needs at most 1 GB for activations, its VAE 3 GB.
    """
    return max(1, 64 * 64**2 // pixels)
