"""Sampling step by step and in batches is the pipeline's own sampling."""

import pytest
import torch
from diffusers import DDIMScheduler

from nitro_lab.mini.noise import SIZE
from nitro_lab.mini.parts import LATENT_SIZE, make_scheduler
from nitro_lab.sampling import (
    Conditioning,
    decode,
    encode,
    encode_prompts,
    generate,
    predict_noise,
    watch,
    x0_from_noise,
)
from nitro_lab.scheduler import TimestepShiftLCMScheduler

PROMPTS = [
    "a large solid red star in the center on a night background",
    "a small striped blue ring at the top on a meadow background",
    "a large dotted white heart on the left on an ocean background",
]
SCHEDULERS = {
    "shifted": lambda: TimestepShiftLCMScheduler(shifted_timestep=500),
    "DPM-Solver++": make_scheduler,
    "DDIM": lambda: DDIMScheduler.from_config(make_scheduler().config),
}


@pytest.fixture
def noise() -> torch.Tensor:
    shape = (len(PROMPTS), 4, LATENT_SIZE, LATENT_SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def watched(pipe, noise, steps, guidance=1.0, seed=0) -> list:
    """All steps, with the conditioning that the pipeline itself would use."""
    with torch.no_grad():
        empty = encode_prompts(pipe, [""] * len(noise)) if guidance != 1 else None
        conditioning = encode_prompts(pipe, PROMPTS)
    generator = torch.Generator().manual_seed(seed) if isinstance(pipe.scheduler, TimestepShiftLCMScheduler) else None
    return list(watch(pipe.unet, pipe.scheduler, noise, conditioning, steps, empty, guidance, generator))


def by_pipeline(pipe, noise, steps, guidance, seed=0) -> torch.Tensor:
    return pipe(
        prompt=PROMPTS,
        latents=noise.clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_watching_ends_where_the_pipeline_ends(untrained_pipeline, noise, scheduler, guidance):
    untrained_pipeline.scheduler = SCHEDULERS[scheduler]()
    steps = watched(untrained_pipeline, noise, 4, guidance)
    assert [step.told for step in steps] == untrained_pipeline.scheduler.timesteps.tolist()
    expected = by_pipeline(untrained_pipeline, noise, 4, guidance)
    torch.testing.assert_close(steps[-1].latents, expected, rtol=1e-4, atol=1e-4)


def test_guidance_changes_the_sample(untrained_pipeline, noise):
    plain, guided = (watched(untrained_pipeline, noise, 2, guidance)[-1].latents for guidance in (1.0, 3.0))
    assert (plain - guided).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_guidance_of_one_or_less_ignores_the_empty_prompt(untrained_pipeline, noise, guidance):
    with torch.no_grad():
        conditioning = encode_prompts(untrained_pipeline, PROMPTS)
    arguments = (untrained_pipeline.unet, untrained_pipeline.scheduler, noise, conditioning, 2)
    *_, alone = watch(*arguments)
    *_, beside = watch(*arguments, empty=conditioning[torch.tensor([1, 2, 0])], guidance=guidance)
    assert torch.equal(alone.latents, beside.latents)


def test_watched_x0_is_read_off_with_the_told_time(untrained_pipeline, noise):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    (step,) = watched(untrained_pipeline, noise, 1)
    with torch.no_grad():
        eps = predict_noise(untrained_pipeline.unet, noise, 249, encode_prompts(untrained_pipeline, PROMPTS))
    alpha = untrained_pipeline.scheduler.alphas_cumprod[249]
    torch.testing.assert_close(step.x0, (noise - (1 - alpha).sqrt() * eps) / alpha.sqrt())
    torch.testing.assert_close(step.x0, step.latents, rtol=1e-4, atol=1e-4)


def test_x0_undoes_noising_at_one_time_for_each_row():
    scheduler = make_scheduler()
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([10, 500, 999])
    noised = DDIMScheduler.from_config(scheduler.config).add_noise(clean, noise, t)
    torch.testing.assert_close(x0_from_noise(scheduler.alphas_cumprod, noised, noise, t), clean, rtol=1e-4, atol=1e-4)


def test_batches_give_what_one_batch_gives(untrained_pipeline, noise):
    """With a scheduler that adds no noise of its own, and for the last, smaller batch too."""
    whole = generate(untrained_pipeline, PROMPTS, noise, 3, guidance=3.0)
    parts = generate(untrained_pipeline, PROMPTS, noise, 3, guidance=3.0, batch_size=2)
    assert whole.shape == noise.shape
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole, by_pipeline(untrained_pipeline, noise, 3, 3.0), rtol=1e-4, atol=1e-4)


def test_generate_follows_its_seed(untrained_pipeline, noise):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler(shifted_timestep=500)
    first, again, other = (generate(untrained_pipeline, PROMPTS, noise, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_generate_leaves_the_noise_as_it_was(untrained_pipeline, noise):
    before = noise.clone()
    generate(untrained_pipeline, PROMPTS, noise, 2)
    assert torch.equal(noise, before)


def test_decode_and_encode_undo_the_pipelines_scaling(untrained_pipeline, noise):
    vae = untrained_pipeline.vae
    images = decode(untrained_pipeline, noise, batch_size=2)
    assert images.shape == (len(noise), 3, SIZE, SIZE)
    assert images.abs().max() <= 1
    with torch.no_grad():
        expected = vae.decode(noise / vae.config.scaling_factor).sample.clamp(-1, 1)
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode(untrained_pipeline, images, batch_size=2), latents, rtol=1e-4, atol=1e-5)


def test_decoded_pictures_are_the_pipelines(untrained_pipeline, noise):
    latents = by_pipeline(untrained_pipeline, noise, 2, 3.0)
    pictures = untrained_pipeline(
        prompt=PROMPTS,
        latents=noise.clone(),
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="pt",
    ).images
    torch.testing.assert_close((decode(untrained_pipeline, latents) + 1) / 2, pictures, rtol=1e-4, atol=1e-4)


def test_rows_of_a_conditioning():
    conditioning = Conditioning(torch.arange(12.0).reshape(3, 2, 2), torch.arange(3.0)[:, None], torch.ones(3, 6))
    rows = conditioning[torch.tensor([2, 0])]
    assert rows.pooled.flatten().tolist() == [2, 0]
    assert (rows.tokens.shape, rows.sizes.shape) == ((2, 2, 2), (2, 6))
