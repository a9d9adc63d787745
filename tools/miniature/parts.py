"""The untrained parts of the miniature: small models of diffusers' and transformers' own classes.

The architecture mirrors SDXL: latents of four channels, two text encoders whose penultimate layers are concatenated, a
pooled prompt embedding and six size and crop values beside the timestep (`text_time`), and three resolutions with
cross-attention in the lower two, which makes ten feature levels in encoder and mid block.
"""

from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from nitro_lab.mini.autoencoder import PATCH, PatchAutoencoderKL
from nitro_lab.mini.render import SIZE
from nitro_lab.mini.tokenizer import MAX_LENGTH, WorldTokenizer

__all__ = ["LATENT_SIZE", "PIPELINE_OPTIONS", "TEXT_WIDTH"]
__all__ += ["make_scheduler", "make_text_encoders", "make_unet", "make_vae"]

LATENT_SIZE = 16
TEXT_WIDTH = 64
# for guidance, the empty prompt is encoded as any other
PIPELINE_OPTIONS = {"force_zeros_for_empty_prompt": False, "add_watermarker": False}


def make_vae() -> PatchAutoencoderKL:
    """64×64 pixels <-> 16×16 latents, one million parameters."""
    return PatchAutoencoderKL(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(64, 64, 64),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        latent_channels=4,
        sample_size=SIZE,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """5.5 million parameters, ten feature levels as in SDXL."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 80, 96),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=4,  # diffusers' name for the number of heads
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + TEXT_WIDTH,
    )


def make_text_encoders(tokenizer: WorldTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Two encoders of three layers; the UNet uses the second layer of each, and the second encoder's projection."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def make_scheduler() -> DPMSolverMultistepScheduler:
    """SDXL's noise schedule, with a solver that is accurate at 25 steps and starts from pure noise (t = 999)."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="trailing",
    )
