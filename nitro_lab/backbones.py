"""Frozen feature extractors for the discriminators."""

from copy import deepcopy

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from nitro_lab.sampling import PromptEmbeds

__all__ = ["FrozenUNetEncoder"]


class FrozenUNetEncoder(nn.Module):
    """Encoder and mid block of a `UNet2DConditionModel`, as a feature extractor.

    Feature levels are the skip tensors, from the first convolution on, and the output of the mid block. The weights are
    copied and kept as non-persistent buffers: no optimizer or state dict of a parent module includes them. The module
    always stays in eval mode.

    Attributes:
        channels: of each feature level.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        decoder, unet.up_blocks = unet.up_blocks, nn.ModuleList()  # not copied
        try:
            self.unet = deepcopy(unet)
        finally:
            unet.up_blocks = decoder
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()  # the UNet then returns the mid block's output
        self.unet.apply(_freeze)
        self._maps: list[Tensor] = []
        self.unet.conv_in.register_forward_hook(lambda module, inputs, output: self._maps.append(output))
        for block in self.unet.down_blocks:
            block.register_forward_hook(lambda module, inputs, output: self._maps.extend(output[1]))
        self.channels = _level_channels(unet)
        super().train(False)

    def forward(self, latents: Tensor, timestep: Tensor | int, embeds: PromptEmbeds) -> list[Tensor]:
        """Return features [(B, C_l, h_l, w_l)] of noisy latents (B, C, h, w). Gradients flow to the latents."""
        self._maps.clear()
        added = {"text_embeds": embeds.pooled_prompt_embeds, "time_ids": embeds.add_time_ids}
        mid = self.unet(latents, timestep, encoder_hidden_states=embeds.prompt_embeds, added_cond_kwargs=added).sample
        features = [*self._maps, mid]
        self._maps.clear()
        return features

    def train(self, mode: bool = True) -> "FrozenUNetEncoder":
        """Do nothing: the module stays in eval mode, so that the features of a latent never change."""
        return self


def _freeze(module: nn.Module) -> None:
    """Turn a module's own parameters into non-persistent buffers."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, parameter.detach(), persistent=False)


def _level_channels(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Channels of the first convolution, of each layer and downsampler, and of the mid block."""
    widths = [unet.config.block_out_channels[0]]
    for block, width in zip(unet.down_blocks, unet.config.block_out_channels, strict=True):
        widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
    return (*widths, unet.config.block_out_channels[-1])
