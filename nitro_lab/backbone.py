"""The frozen teacher's encoder as the critics' eyes: ten feature maps of a latent that is noised to t*."""

from copy import deepcopy

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from nitro_lab.sampling import Conditioning, predict_noise


class FrozenBackbone(nn.Module):
    """Encoder and mid block of any `UNet2DConditionModel`: its skip tensors and the mid block's output.

    The UNet runs its own forward; with the decoder taken out it ends after the mid block. The weights are copied and
    kept as buffers, so no parent can train them: nobody's `parameters()` lists them, and `train()` does nothing.

    Attributes:
        channels: of each feature map, from the first convolution to the mid block.
    """

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        decoder, unet.up_blocks = unet.up_blocks, nn.ModuleList()
        try:
            self.unet = deepcopy(unet)
        finally:
            unet.up_blocks = decoder
        self.unet.conv_norm_out = None
        self.unet.conv_out = nn.Identity()  # what the UNet returns is then the mid block's output
        self.unet.apply(freeze)
        self.maps: list[torch.Tensor] = []
        self.unet.conv_in.register_forward_hook(lambda module, inputs, output: self.maps.append(output))
        for block in self.unet.down_blocks:
            block.register_forward_hook(lambda module, inputs, output: self.maps.extend(output[1]))
        self.channels = level_channels(unet)
        super().train(False)  # once and for all

    def forward(self, latents: torch.Tensor, t: torch.Tensor | int, conditioning: Conditioning) -> list[torch.Tensor]:
        """Feature maps [(B, C_l, h_l, w_l)] of noisy latents (B, C, h, w) at t. Gradients flow to the latents."""
        self.maps.clear()
        mid = predict_noise(self.unet, latents, t, conditioning)
        features = [*self.maps, mid]
        self.maps.clear()
        return features

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Stays in eval: a critic's eyes must not change while it looks."""
        return self


def freeze(module: nn.Module) -> None:
    """Turn a module's own parameters into buffers that no state dict holds."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, parameter.detach(), persistent=False)


def level_channels(unet: UNet2DConditionModel) -> tuple[int, ...]:
    """Channels of the feature maps: the first convolution, each layer and each downsampler, the mid block."""
    widths = [unet.config.block_out_channels[0]]
    for block, width in zip(unet.down_blocks, unet.config.block_out_channels, strict=True):
        widths += [width] * (len(block.resnets) + (block.downsamplers is not None))
    return (*widths, unet.config.block_out_channels[-1])
