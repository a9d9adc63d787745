"""The miniature's parts mirror SDXL's: feature levels, conditioning, latents, folders."""

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionXLPipeline

from nitro_lab.mini.noise import SIZE
from nitro_lab.mini.parts import LATENT_SIZE, TEXT_WIDTH, make_scheduler
from nitro_lab.sampling import encode_prompts, predict_noise

PROMPTS = ["a large solid red star in the center on a night background", "a small blue ring"]
LEVELS = [(64, 16)] * 3 + [(64, 8)] + [(80, 8)] * 2 + [(80, 4)] + [(96, 4)] * 2 + [(96, 4)]  # channels, side


@pytest.fixture
def saved(untrained_pipeline, tmp_path):
    untrained_pipeline.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_ten_feature_levels(untrained_pipeline):
    """`conv_in`, three tensors of the first two blocks, two of the last, and the mid block, as in SDXL."""
    unet = untrained_pipeline.unet
    features = []
    hooks = [
        unet.conv_in.register_forward_hook(lambda _, __, output: features.append(output)),
        *(b.register_forward_hook(lambda _, __, output: features.extend(output[1])) for b in unet.down_blocks),
        unet.mid_block.register_forward_hook(lambda _, __, output: features.append(output)),
    ]
    predict_noise(unet, torch.zeros(2, 4, LATENT_SIZE, LATENT_SIZE), 500, encode_prompts(untrained_pipeline, PROMPTS))
    for hook in hooks:
        hook.remove()
    assert [(feature.shape[1], feature.shape[2]) for feature in features] == LEVELS
    assert len(LEVELS) == 10


@torch.no_grad()
def test_unet_is_conditioned_as_sdxls_is(untrained_pipeline):
    """Every input changes the prediction: time, words, pooled prompt, sizes."""
    unet = untrained_pipeline.unet
    assert unet.config.addition_embed_type == "text_time"
    conditioning = encode_prompts(untrained_pipeline, PROMPTS)
    assert conditioning.tokens.shape == (2, untrained_pipeline.tokenizer.model_max_length, 2 * TEXT_WIDTH)
    assert conditioning.pooled.shape == (2, TEXT_WIDTH)
    assert conditioning.sizes.tolist() == [[SIZE, SIZE, 0, 0, SIZE, SIZE]] * 2
    latents = torch.randn(2, 4, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(0))
    kwargs = {"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes}

    def predict(told=500, tokens=conditioning.tokens, **changed):
        return unet(latents, told, encoder_hidden_states=tokens, added_cond_kwargs=kwargs | changed).sample

    plain = predict()
    others = [
        predict(told=499),
        predict(tokens=conditioning.tokens.flip(0)),
        predict(text_embeds=conditioning.pooled.flip(0)),
        predict(time_ids=conditioning.sizes + 8),
    ]
    assert plain.shape == latents.shape
    assert all((other - plain).abs().max() > 1e-5 for other in others)


@torch.no_grad()
def test_vae_shrinks_four_times_and_keeps_places(untrained_pipeline):
    vae = untrained_pipeline.vae
    assert untrained_pipeline.vae_scale_factor == 4
    assert untrained_pipeline.default_sample_size == LATENT_SIZE
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = vae.encode(images).latent_dist.mode()
    assert latents.shape == (2, 4, LATENT_SIZE, LATENT_SIZE)
    assert vae.decode(latents).sample.shape == images.shape
    assert torch.equal(vae.decode(latents, return_dict=False)[0], vae.decode(latents).sample)
    changed = images.clone()
    changed[:, :, 40:44, 28:32] = 1  # the patch in row 10, column 7
    difference = (vae.encode(changed).latent_dist.mode() - latents).square().sum((0, 1))
    ticks = torch.arange(LATENT_SIZE)
    row, column = ((difference * axis).sum() / difference.sum() for axis in (ticks[:, None], ticks))
    assert (row.item(), column.item()) == (pytest.approx(10, abs=1), pytest.approx(7, abs=1))


@torch.no_grad()
def test_pictures_of_other_sizes_pass_through_the_vae(untrained_pipeline):
    images = torch.zeros(1, 3, 96, 32)
    latents = untrained_pipeline.vae.encode(images).latent_dist.mode()
    assert latents.shape == (1, 4, 24, 8)
    assert untrained_pipeline.vae.decode(latents).sample.shape == images.shape


def test_scheduler_has_sdxls_noise_and_starts_from_pure_noise():
    scheduler = make_scheduler()
    sdxl = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.equal(scheduler.alphas_cumprod, sdxl.alphas_cumprod)
    scheduler.set_timesteps(25)
    assert scheduler.timesteps[0] == 999


def test_saved_folder_is_diffusers_own_and_loads_back(untrained_pipeline, saved):
    loaded = StableDiffusionXLPipeline.from_pretrained(saved)
    for name, part in untrained_pipeline.components.items():
        assert type(loaded.components[name]) is type(part), name
        if isinstance(part, torch.nn.Module):
            weights = loaded.components[name].state_dict()
            assert weights.keys() == part.state_dict().keys()
            assert all(torch.equal(weights[key], value) for key, value in part.state_dict().items())
    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler)
    assert not loaded.config.force_zeros_for_empty_prompt
    assert not list(saved.rglob("*.bin"))


def test_loaded_pipeline_makes_the_same_picture(untrained_pipeline, saved):
    loaded = StableDiffusionXLPipeline.from_pretrained(saved)
    loaded.set_progress_bar_config(disable=True)
    pictures = [
        pipe(PROMPTS[0], num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type="pt").images
        for pipe in (untrained_pipeline, loaded)
    ]
    assert pictures[0].shape == (1, 3, SIZE, SIZE)
    assert torch.equal(*pictures)
