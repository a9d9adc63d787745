"""A hub repository with the layout of SDXL's and random weights of a few kilobytes, and a one-step student's UNet."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nitro_lab.randomness import seeded

WIDTH = 16
NOT_WANTED = ("sd_xl_base_1.0.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors", "text_encoder/model.onnx")
START, END = "<|startoftext|>", "<|endoftext|>"


def make_unet() -> UNet2DConditionModel:
    """SDXL's kinds of blocks, one thousandth as wide."""
    return UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=2 * WIDTH,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + WIDTH,
    )


def make_vae() -> AutoencoderKL:
    """Two blocks, so two pixels to a latent."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        sample_size=16,
    )


def make_repository(folder: Path) -> None:
    """Write the pipeline in full and half precision, and files of SDXL's repository that must not be fetched."""
    tokens = write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2")
    widths = dict.fromkeys(("hidden_size", "intermediate_size", "projection_dim"), WIDTH)
    ids = {"vocab_size": len(tokens), "bos_token_id": tokens.index(START), "eos_token_id": tokens.index(END)}
    config = CLIPTextConfig(num_hidden_layers=2, num_attention_heads=2, **widths, **ids)
    pipe = StableDiffusionXLPipeline(
        text_encoder=seeded(0, lambda: CLIPTextModel(config)),
        text_encoder_2=seeded(1, lambda: CLIPTextModelWithProjection(config)),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=seeded(2, make_unet),
        vae=seeded(3, make_vae),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )
    pipe.save_pretrained(folder)
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16")
    for name in ("tokenizer/tokenizer.json", "tokenizer_2/tokenizer.json"):  # newer than SDXL
        (folder / name).unlink()
    for name in NOT_WANTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")


def write_tokenizer(folder: Path) -> list[str]:
    """CLIP's tokenizer in the old files of SDXL's repository, over single letters. Returns the vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "ab</w>", START, END]
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": START}
    config |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokens


def write_student(path: Path, seed: int = 7) -> None:
    """Write a student's UNet in half precision, as NitroSD's authors publish theirs."""
    weights = {name: value.half().contiguous() for name, value in seeded(seed, make_unet).state_dict().items()}
    save_file(weights, path, metadata={"format": "pt"})


def write_lora(path: Path, seed: int = 0) -> Path:
    """Write a random LoRA of the UNet's attention, as diffusers does."""
    unet = make_unet()
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    seeded(seed, lambda: unet.add_adapter(config))
    layers = get_peft_model_state_dict(unet)
    StableDiffusionXLPipeline.save_lora_weights(path.parent, layers, weight_name=path.name)
    return path
