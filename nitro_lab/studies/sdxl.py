"""SDXL at full size without its weights: how much memory and arithmetic the real NitroSD asks for.

The parts are built on torch's meta device, where tensors have shapes and no contents, so counting takes seconds and
no memory. Configurations: the `config.json` files of `stabilityai/stable-diffusion-xl-base-1.0`.
"""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TOKENS = 77


def make_unet() -> UNet2DConditionModel:
    """SDXL's UNet; NitroSD's has the same shapes."""
    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + 1280,
    )


def make_vae() -> AutoencoderKL:
    """SDXL's autoencoder, 8 pixels to a latent."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=1024,
    )


def make_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """CLIP ViT-L and OpenCLIP ViT-bigG, without their image halves."""
    first = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        projection_dim=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=TOKENS,
    )
    second = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=1280,
        intermediate_size=5120,
        projection_dim=1280,
        num_hidden_layers=32,
        num_attention_heads=20,
        max_position_embeddings=TOKENS,
        hidden_act="gelu",
    )
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def make_parts() -> dict[str, nn.Module]:
    """All parts with weights, on the meta device."""
    with torch.device("meta"):
        text_encoder, text_encoder_2 = make_text_encoders()
        return {
            "text encoder 1": text_encoder,
            "text encoder 2": text_encoder_2,
            "UNet": make_unet(),
            "VAE": make_vae(),
        }


def count_parameters(parts: dict[str, nn.Module]) -> dict[str, int]:
    """Numbers of weights."""
    return {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}


def count_operations(parts: dict[str, nn.Module], side: int = 1024) -> dict[str, int]:
    """Floating-point operations (a multiplication and an addition are two) for one image of side × side pixels.

    The text encoders read one prompt, the UNet makes one pass without guidance, the VAE decodes.
    """
    with torch.device("meta"):
        latents = torch.empty(1, 4, side // 8, side // 8)
        words = torch.empty(1, TOKENS, dtype=torch.long)
        hints = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
        tokens = torch.empty(1, TOKENS, 2048)
        calls = {
            "text encoder 1": lambda part: part(words),
            "text encoder 2": lambda part: part(words),
            "UNet": lambda part: part(latents, 999, encoder_hidden_states=tokens, added_cond_kwargs=hints),
            "VAE": lambda part: part.decode(latents),
        }
        counts = {}
        for name, part in parts.items():
            with FlopCounterMode(display=False) as counter:
                calls[name](part)
            counts[name] = counter.get_total_flops()
    return counts
