"""Frozen feature extractors for the discriminators. One of your own is a subclass of `Backbone`."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy, deepcopy

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from nitro_lab.sampling import PromptEmbeds

__all__ = ["Backbone", "FrozenUNetEncoder", "FrozenVision", "SharedUNetEncoder", "check_backbone"]


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

    def in_use(self) -> AbstractContextManager[None]:
        """Within this context features are extracted, and gradients flow back through them."""
        return nullcontext()


class FrozenUNetEncoder(Backbone):
    """A copy of the encoder and mid block of a `UNet2DConditionModel`, as a feature extractor.

    Feature levels are the skip tensors, from the first convolution on, and the output of the mid block; with `decoder`,
    those of the decoder's blocks follow.
    """

    def __init__(self, unet: UNet2DConditionModel, decoder: bool = False):
        super().__init__()
        self.unet = deepcopy(_features_only(unet, decoder))
        self.freeze()
        self._maps: list[Tensor] = []
        _collect_features(self.unet, self._maps)
        self.channels = _channels(unet, decoder)

    def forward(self, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> list[Tensor]:
        """Return features [(B, C_l, h_l, w_l)] of noisy latents (B, C, h, w). Gradients flow to the latents."""
        self._maps.clear()
        _run(self.unet, latents, timestep, embeds)
        features = list(self._maps)
        self._maps.clear()
        return features


class SharedUNetEncoder(Backbone):
    """The encoder and mid block of a UNet without its LoRA, which is the student: nothing is copied.

    Use it, and differentiate its features, in the context `in_use`: gradient checkpointing runs parts of it again.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self._shared = (unet, _features_only(unet, decoder=False))  # in a tuple: the student's weights are not ours
        self.channels = _channels(unet, decoder=False)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Turn the LoRA off, unless it is off already."""
        unet = self._shared[0]
        if not any(isinstance(module, BaseTunerLayer) and not module.disable_adapters for module in unet.modules()):
            yield
            return
        unet.disable_adapters()
        try:
            yield
        finally:
            unet.enable_adapters()

    def forward(self, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> list[Tensor]:
        """Return features [(B, C_l, h_l, w_l)] of noisy latents (B, C, h, w). Gradients flow to the latents."""
        maps: list[Tensor] = []
        hooks = _collect_features(self._shared[1], maps)
        try:
            with self.in_use():
                _run(self._shared[1], latents, timestep, embeds)
        finally:
            for hook in hooks:
                hook.remove()
        return maps


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
        self.vae, self.network = deepcopy(vae).float(), deepcopy(network)
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
        with torch.autocast(latents.device.type, enabled=False):  # SDXL's VAE overflows in float16
            images = self.vae.decode(latents.float() / self.vae.config.scaling_factor).sample
        self.network(images)
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


def _features_only(unet: UNet2DConditionModel, decoder: bool) -> UNet2DConditionModel:
    """A UNet of the same modules without what follows the features."""
    shell = copy(unet)
    shell._modules = dict(unet._modules)
    if not decoder:
        shell.up_blocks = nn.ModuleList()
    shell.conv_norm_out = None
    shell.conv_out = nn.Identity()
    return shell


def _collect_features(unet: UNet2DConditionModel, maps: list[Tensor]) -> list[RemovableHandle]:
    """Let each forward append its features to `maps`."""
    one_map = [unet.conv_in, unet.mid_block, *unet.up_blocks]
    hooks = [m.register_forward_hook(lambda module, inputs, output: maps.append(output)) for m in one_map]
    skips = [m.register_forward_hook(lambda module, inputs, output: maps.extend(output[1])) for m in unet.down_blocks]
    return hooks + skips


def _run(unet: UNet2DConditionModel, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> None:
    added = {"text_embeds": embeds.pooled_prompt_embeds, "time_ids": embeds.add_time_ids}
    unet(latents, timestep, encoder_hidden_states=embeds.prompt_embeds, added_cond_kwargs=added)


def _channels(unet: UNet2DConditionModel, decoder: bool) -> tuple[int, ...]:
    """Channels of the first convolution, each layer and downsampler, the mid block, and the decoder's blocks."""
    blocks = unet.config.block_out_channels
    widths = [blocks[0]]
    for block, width in zip(unet.down_blocks, blocks, strict=True):
        widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
    return (*widths, blocks[-1], *(blocks[::-1] if decoder else ()))
