"""Memory and arithmetic of full-size SDXL, and so of NitroSD, counted without the weights.

The parts are built on torch's meta device, where tensors have shapes but no data. Configurations: the `config.json`
files of `stabilityai/stable-diffusion-xl-base-1.0`.
"""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from nitro_lab.memory import SDXL_UNET

__all__ = ["count_operations", "count_parameters", "make_parts"]

_TOKENS = 77
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def make_parts() -> dict[str, nn.Module]:
    """Build the text encoders (CLIP ViT-L, OpenCLIP ViT-bigG), the UNet and the VAE on the meta device."""
    with torch.device("meta"):
        return {
            "text encoder 1": CLIPTextModel(_text_config(768, 12, 12)),
            "text encoder 2": CLIPTextModelWithProjection(_text_config(1280, 32, 20)),
            "UNet": UNet2DConditionModel(**SDXL_UNET),
            "VAE": AutoencoderKL(**_VAE),
        }


def count_parameters(parts: Mapping[str, nn.Module]) -> dict[str, int]:
    """Number of parameters of each part."""
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}


def count_operations(parts: Mapping[str, nn.Module], side: int = 1024) -> dict[str, int]:
    """Floating-point operations (a multiply-add counts as two) for one image of side × side pixels.

    The text encoders read one prompt, the UNet makes one pass without guidance, the VAE decodes.
    """
    with torch.device("meta"):
        latents = torch.empty(1, 4, side // 8, side // 8)
        input_ids = torch.empty(1, _TOKENS, dtype=torch.long)
        embeds = torch.empty(1, _TOKENS, 2048)
        added = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        calls = {
            "text encoder 1": lambda part: part(input_ids),
            "text encoder 2": lambda part: part(input_ids),
            "UNet": lambda part: part(latents, 999, encoder_hidden_states=embeds, added_cond_kwargs=added),
            "VAE": lambda part: part.decode(latents),
        }
        counts = {}
        for name, part in parts.items():
            with FlopCounterMode(display=False) as counter:
                calls[name](part)
            counts[name] = counter.get_total_flops()
    return counts


def _text_config(width: int, layers: int, heads: int) -> CLIPTextConfig:
    """A CLIP text encoder; SDXL's two differ in size only, and in an activation of the same cost."""
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=_TOKENS,
    )
