"""Frozen feature extractors for the discriminators. One of your own is a subclass of `Backbone`."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from typing_extensions import Self

from nitro_lab.sampling import PromptEmbeds

__all__ = ["Backbone", "FrozenUNetEncoder", "FrozenVision", "check_backbone"]


class Backbone(nn.Module):
    """A feature extractor that always stays in eval mode, so that the features of a latent never change.

    Subclasses set `channels` and implement `forward(latents, timesteps, embeds)`: features [(B, C_l, h_l, w_l)] of
    noisy latents (B, C, h, w) at timesteps (B,), through which gradients flow to the latents.

    Attributes:
        channels: of each feature level.
        noisy: False if it gets clean latents; it then has no use for the timesteps.
    """

    channels: Sequence[int]
    noisy = True

    def freeze(self) -> None:
        """Turn all weights into non-persistent buffers: no optimizer or state dict of a parent module has them."""
        self.apply(_freeze)
        super().train(False)

    def train(self, mode: bool = True) -> Self:
        """Do nothing."""
        return self


class FrozenUNetEncoder(Backbone):
    """A copy of the encoder and mid block of a `UNet2DConditionModel`, as a feature extractor.

    Feature levels are the skip tensors, from the first convolution on, and the output of the mid block; with `decoder`,
    those of the decoder's blocks follow.
    """

    def __init__(self, unet: UNet2DConditionModel, decoder: bool = False):
        super().__init__()
        up_blocks = unet.up_blocks
        if not decoder:
            unet.up_blocks = nn.ModuleList()  # not copied
        try:
            self.unet = deepcopy(unet)
        finally:
            unet.up_blocks = up_blocks
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()
        self.freeze()
        self._maps: list[Tensor] = []
        self.unet.conv_in.register_forward_hook(lambda module, inputs, output: self._maps.append(output))
        for block in self.unet.down_blocks:
            block.register_forward_hook(lambda module, inputs, output: self._maps.extend(output[1]))
        for block in (self.unet.mid_block, *self.unet.up_blocks):
            block.register_forward_hook(lambda module, inputs, output: self._maps.append(output))
        widths = unet.config.block_out_channels
        self.channels = (*_encoder_channels(unet), widths[-1], *(widths[::-1] if decoder else ()))

    def forward(self, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> list[Tensor]:
        """Return features [(B, C_l, h_l, w_l)] of noisy latents (B, C, h, w). Gradients flow to the latents."""
        self._maps.clear()
        added = {"text_embeds": embeds.pooled_prompt_embeds, "time_ids": embeds.add_time_ids}
        self.unet(latents, timestep, encoder_hidden_states=embeds.prompt_embeds, added_cond_kwargs=added)
        features = list(self._maps)
        self._maps.clear()
        return features


class FrozenVision(Backbone):
    """A vision network on decoded pixels, clean ones; gradients flow through the VAE to the latents.

    Args:
        vae: of the pipeline; it is copied.
        network: from images (B, 3, h, w) in [-1, 1] to anything; it is copied.
        layers: names of its submodules whose outputs (B, C, h, w) are the feature levels.
        size: side of an example latent, to count channels with.
    """

    noisy = False

    def __init__(self, vae: AutoencoderKL, network: nn.Module, layers: Sequence[str], size: int = 8):
        super().__init__()
        self.vae, self.network = deepcopy(vae), deepcopy(network)
        self.vae.encoder = nn.Identity()
        self.freeze()
        self._maps: list[Tensor] = []
        for name in layers:
            layer = self.network.get_submodule(name)
            layer.register_forward_hook(lambda module, inputs, output: self._maps.append(output))
        example = next(self.vae.buffers()).new_zeros(1, vae.config.latent_channels, size, size)
        with torch.no_grad():
            self.channels = tuple(x.shape[1] for x in self._extract(example))

    def forward(self, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> list[Tensor]:
        """Return features [(B, C_l, h_l, w_l)] of clean latents (B, C, h, w)."""
        return self._extract(latents)

    def _extract(self, latents: Tensor) -> list[Tensor]:
        """Decode, and collect the features."""
        self._maps.clear()
        self.network(self.vae.decode(latents / self.vae.config.scaling_factor).sample)
        features = list(self._maps)
        self._maps.clear()
        return features


def check_backbone(backbone: Backbone, latents: Tensor, embeds: PromptEmbeds) -> None:
    """Try a backbone; a ValueError if it fails, or its features do not fit its `channels` or carry no gradient."""
    name, latents = type(backbone).__name__, latents.clone().requires_grad_()
    timesteps = torch.full((len(latents),), 500, device=latents.device)
    try:
        with torch.enable_grad():
            maps = list(backbone(latents, timesteps, embeds))
    except Exception as error:
        raise ValueError(f"backbone {name} fails on latents {tuple(latents.shape)}: {error}") from error
    shapes = [tuple(x.shape) for x in maps]
    expected = [(len(latents), channels) for channels in backbone.channels]
    if [shape[:2] for shape in shapes] != expected:
        raise ValueError(f"backbone {name} returned features {shapes}; by its channels, they must begin {expected}.")
    if not all(x.requires_grad for x in maps):
        raise ValueError(f"No gradient flows through backbone {name} to the latents; look for no_grad or detach.")


def _freeze(module: nn.Module) -> None:
    """Turn a module's own parameters into non-persistent buffers."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, parameter.detach(), persistent=False)


def _encoder_channels(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Channels of the first convolution, and of each layer and downsampler."""
    widths = [unet.config.block_out_channels[0]]
    for block, width in zip(unet.down_blocks, unet.config.block_out_channels, strict=True):
        widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
    return tuple(widths)
