"""The miniature's parts mirror SDXL's: conditioning, latents, folder layout."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline

from nitro_lab.mini.render import SIZE
from nitro_lab.sampling import encode_prompts, predict_noise
from tools.miniature.parts import LATENT_SIZE, TEXT_WIDTH, make_scheduler

PROMPTS = ["a large solid red star in the center on a night background", "a small blue ring"]


@torch.no_grad()
def test_unet_is_conditioned_as_sdxls_is(untrained_pipeline):
    """Every input changes the prediction: timestep, prompt, pooled prompt, sizes."""
    embeds = encode_prompts(untrained_pipeline, PROMPTS)
    assert embeds.prompt_embeds.shape == (2, untrained_pipeline.tokenizer.model_max_length, 2 * TEXT_WIDTH)
    assert embeds.pooled_prompt_embeds.shape == (2, TEXT_WIDTH)
    assert embeds.add_time_ids.tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2
    latents = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    plain = predict_noise(untrained_pipeline.unet, latents, 500, embeds)
    assert plain.shape == latents.shape
    changes = [
        {"prompt_embeds": embeds.prompt_embeds.flip(0)},
        {"pooled_prompt_embeds": embeds.pooled_prompt_embeds.flip(0)},
        {"add_time_ids": embeds.add_time_ids + 8},
    ]
    for timestep, changed in [(499, {}), *((500, change) for change in changes)]:
        other = predict_noise(untrained_pipeline.unet, latents, timestep, replace(embeds, **changed))
        assert (other - plain).abs().max() > 1e-5


@torch.no_grad()
def test_vae_downscales_by_4_and_keeps_positions(untrained_pipeline):
    vae = untrained_pipeline.vae
    assert untrained_pipeline.vae_scale_factor == 4
    assert untrained_pipeline.default_sample_size == LATENT_SIZE
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = vae.encode(images).latent_dist.mode()
    assert latents.shape == (2, 4, LATENT_SIZE, LATENT_SIZE)
    assert vae.decode(latents).sample.shape == images.shape
    changed = images.clone()
    changed[:, :, 40:44, 28:32] = 1  # the patch in row 10, column 7
    difference = (vae.encode(changed).latent_dist.mode() - latents).square().sum((0, 1))
    ticks = torch.arange(LATENT_SIZE)
    row, column = ((difference * axis).sum() / difference.sum() for axis in (ticks[:, None], ticks))
    assert (row.item(), column.item()) == (pytest.approx(10, abs=1), pytest.approx(7, abs=1))


def test_a_saved_pipeline_has_the_same_parts_and_makes_the_same_image(untrained_pipeline, tmp_path):
    untrained_pipeline.save_pretrained(tmp_path)
    loaded = StableDiffusionXLPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert {name: type(part) for name, part in loaded.components.items()} == {
        name: type(part) for name, part in untrained_pipeline.components.items()
    }
    images = [
        pipe(PROMPTS[0], num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="pt").images
        for pipe in (untrained_pipeline, loaded)
    ]
    assert images[0].shape == (1, 3, SIZE, SIZE)
    assert torch.equal(*images)
    assert not loaded.config.force_zeros_for_empty_prompt


def test_scheduler_has_sdxls_noise_schedule_and_starts_from_pure_noise():
    scheduler = make_scheduler()
    sdxl = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(scheduler.alphas_cumprod, sdxl.alphas_cumprod)
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (128, 128), (112, 160)])
def test_tiling_keeps_the_size_and_nearly_the_values(untrained_pipeline, size):
    vae = deepcopy(untrained_pipeline.vae)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = vae.encode(images).latent_dist.mode()
    decoded = vae.decode(plain).sample
    vae.enable_tiling()
    latents = vae.encode(images).latent_dist.mode()
    tiled = vae.decode(plain).sample
    assert (latents.shape, tiled.shape) == (plain.shape, images.shape)
    assert (latents - plain).square().mean() < 0.3 * plain.square().mean()
    assert (tiled - decoded).square().mean() < 0.3 * decoded.square().mean()
