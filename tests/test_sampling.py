"""Sampling step by step and in batches is the pipeline's own sampling."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from diffusers import DPMSolverMultistepScheduler as DPMSolver

from nitro_lab.mini.render import SIZE
from nitro_lab.sampling import (
    decode,
    encode,
    encode_prompts,
    predict_noise,
    sample_image,
    sample_latents,
    sample_trajectory,
    x0_from_eps,
)
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from tools.miniature.parts import LATENT_SIZE, make_scheduler

PROMPTS = [
    "a large solid red star in the center on a night background",
    "a small striped blue ring at the top on a meadow background",
    "a large dotted white heart on the left on an ocean background",
]


@pytest.fixture
def noise() -> torch.Tensor:
    shape = (len(PROMPTS), 4, LATENT_SIZE, LATENT_SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def trajectory(pipe, noise, steps, guidance=1.0, seed=0) -> list:
    """All steps, with the embeddings that the pipeline itself would use."""
    with torch.no_grad():
        negative = encode_prompts(pipe, [""] * len(noise)) if guidance != 1 else None
        embeds = encode_prompts(pipe, PROMPTS)
    generator = torch.Generator().manual_seed(seed) if isinstance(pipe.scheduler, TimestepShiftLCMScheduler) else None
    return list(sample_trajectory(pipe.unet, pipe.scheduler, noise, embeds, steps, negative, guidance, generator))


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
@pytest.mark.parametrize(
    "scheduler", [TimestepShiftLCMScheduler, DPMSolver, DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler]
)
def test_a_trajectory_ends_where_the_pipeline_ends(untrained_pipeline, noise, scheduler, guidance):
    untrained_pipeline.scheduler = scheduler.from_config(make_scheduler().config)
    steps = trajectory(untrained_pipeline, noise, 4, guidance)
    assert [step.timestep for step in steps] == untrained_pipeline.scheduler.timesteps.long().tolist()
    expected = by_pipeline(untrained_pipeline, noise, 4, guidance)
    torch.testing.assert_close(steps[-1].latents, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(steps[-1].x0, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_negative_embeddings_and_guidance_belong_together(untrained_pipeline, noise, guidance):
    """A guidance of one or less ignores the negative prompt; more guidance needs one."""
    embeds = encode_prompts(untrained_pipeline, PROMPTS)
    arguments = (untrained_pipeline.unet, untrained_pipeline.scheduler, noise, embeds, 2)
    *_, alone = sample_trajectory(*arguments)
    *_, beside = sample_trajectory(*arguments, negative_embeds=embeds[torch.tensor([1, 2, 0])], guidance_scale=guidance)
    assert torch.equal(alone.latents, beside.latents)
    with pytest.raises(ValueError, match=r"guidance_scale is 2\.0.*negative_embeds"):
        next(sample_trajectory(*arguments, guidance_scale=2.0))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", [DPMSolver, DDIMScheduler, EulerDiscreteScheduler])
def test_x0_of_a_trajectory_follows_the_prediction_type(untrained_pipeline, noise, scheduler, kind):
    """The UNet's output, read as ε or as v at the first step, from pure noise."""
    pipe = untrained_pipeline
    pipe.scheduler = scheduler.from_config(make_scheduler().config, prediction_type=kind, clip_sample=False)
    step = trajectory(pipe, noise, 4)[0]
    ours, alpha = pipe.scheduler, pipe.scheduler.alphas_cumprod[999]
    x = noise * ours.init_noise_sigma * alpha.sqrt() if scheduler is EulerDiscreteScheduler else noise
    with torch.no_grad():
        output = predict_noise(pipe.unet, x, 999, encode_prompts(pipe, PROMPTS))
    x0 = {
        "epsilon": (x - (1 - alpha).sqrt() * output) / alpha.sqrt(),
        "v_prediction": alpha.sqrt() * x - (1 - alpha).sqrt() * output,
    }
    torch.testing.assert_close(step.x0, x0[kind], rtol=1e-3, atol=1e-3)


def test_schedulers_that_do_not_give_x0_are_refused(untrained_pipeline, noise):
    untrained_pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    untrained_pipeline.scheduler.init_noise_sigma = 1.0
    untrained_pipeline.scheduler.scale_model_input = lambda latents, timestep: latents
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler.*DDIMScheduler"):
        trajectory(untrained_pipeline, noise, 2)


def test_x0_undoes_noising_at_one_time_for_each_row():
    scheduler = make_scheduler()
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    t = torch.tensor([10, 500, 999])
    noised = DDIMScheduler.from_config(scheduler.config).add_noise(clean, noise, t)
    torch.testing.assert_close(x0_from_eps(scheduler.alphas_cumprod, noised, noise, t), clean, rtol=1e-4, atol=1e-4)


def test_batches_give_what_the_pipeline_gives(untrained_pipeline, noise):
    """With a scheduler that adds no noise of its own, and for the last, smaller batch too."""
    before, expected = noise.clone(), by_pipeline(untrained_pipeline, noise, 3, 3.0)
    for batch_size in (2, 64):
        latents = sample_latents(untrained_pipeline, PROMPTS, noise, 3, guidance_scale=3.0, batch_size=batch_size)
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(noise, before)
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler()  # adds noise, and so depends on the seed
    first, again, other = (sample_latents(untrained_pipeline, PROMPTS, noise, 3, seed=n) for n in (1, np.int64(1), 2))
    assert torch.equal(first, again)
    assert (first - other).abs().max() > 1e-3


def test_offloaded_parts_compute_where_their_hooks_say(untrained_pipeline, noise):
    """Their own weights are on no device at all."""
    pipe = untrained_pipeline
    expected = trajectory(pipe, noise, 2)[-1].latents, sample_latents(pipe, PROMPTS, noise, 2, 3.0)
    images = decode(pipe, expected[0])
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        setattr(pipe, name, cpu_offload(copy.deepcopy(getattr(pipe, name)), torch.device("cpu")))
    assert pipe.unet.device.type == "meta"
    found = trajectory(pipe, noise, 2)[-1].latents, sample_latents(pipe, PROMPTS, noise, 2, 3.0)
    assert all(map(torch.equal, found, expected))
    assert torch.equal(decode(pipe, found[0]), images)


def test_decode_and_encode_apply_the_scaling_factor(untrained_pipeline, noise):
    vae = untrained_pipeline.vae
    images = decode(untrained_pipeline, noise, batch_size=2)
    assert images.shape == (len(noise), 3, SIZE, SIZE)
    assert images.abs().max() <= 1
    with torch.no_grad():
        expected = vae.decode(noise / vae.config.scaling_factor).sample.clamp(-1, 1)
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encode(untrained_pipeline, images, batch_size=2), latents, rtol=1e-4, atol=1e-5)


def half_precision(pipe, force_upcast):
    """The pipeline in float16, with a VAE whose decoder overflows in that precision."""
    for name in ("vae", "unet", "text_encoder", "text_encoder_2"):
        setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    if force_upcast:
        for weights in (*pipe.vae.decoder.conv_in.parameters(), *pipe.vae.encoder.conv_in.parameters()):
            weights *= 4e4
    pipe.vae.register_to_config(force_upcast=force_upcast)
    return pipe.to(torch.float16)


@pytest.mark.parametrize("force_upcast", [True, False])
def test_float16_is_as_in_the_pipeline(untrained_pipeline, noise, force_upcast):
    pipe = half_precision(untrained_pipeline, force_upcast)
    pipe.scheduler = TimestepShiftLCMScheduler()
    expected = pipe(PROMPTS, latents=noise.half(), output_type="pt", num_inference_steps=1, guidance_scale=0).images
    images = decode(pipe, sample_latents(pipe, PROMPTS, noise, 1))  # float32 noise
    assert images.isfinite().all()
    torch.testing.assert_close((images.float() + 1) / 2, expected.float(), rtol=1e-2, atol=1e-2)

    latents = encode(pipe, images.float())
    assert pipe.vae.dtype == latents.dtype == torch.float16
    vae = copy.deepcopy(pipe.vae).float()
    expected = vae.encode(images.float()).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(latents.float(), expected, rtol=1e-2, atol=2e-2)

    expected = by_pipeline(pipe, noise.half(), 2, 1.0)
    for x_T in (noise, noise.half()):  # all but the UNet keeps the precision of the noise
        last = trajectory(pipe, x_T, 2)[-1].latents
        assert last.dtype == x_T.dtype
        torch.testing.assert_close(last, expected, rtol=1e-2, atol=1e-2, check_dtype=False)


def test_batches_have_as_many_images_as_fit():
    """As many pixels as 64 images of the miniature; one image of SDXL."""
    sizes: list[int] = []
    latents = torch.zeros(65, 4, LATENT_SIZE, LATENT_SIZE)
    vae = SimpleNamespace(
        config=SimpleNamespace(scaling_factor=1.0),
        dtype=latents.dtype,
        parameters=lambda: iter([latents]),
        decode=lambda x: sizes.append(len(x)) or SimpleNamespace(sample=x),
        encode=lambda x: sizes.append(len(x)) or SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: x)),
    )
    pipe = SimpleNamespace(vae=vae, vae_scale_factor=SIZE // LATENT_SIZE)
    decode(pipe, latents)
    encode(pipe, torch.zeros(65, 3, SIZE, SIZE))
    assert sizes == [64, 1] * 2
    decode(pipe, latents[:2].repeat(1, 1, 16, 16))
    encode(pipe, torch.zeros(2, 3, 1024, 1024))
    assert sizes[4:] == [1, 1] * 2


def test_one_image_and_remarks(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler()
    image, remarks = sample_image(untrained_pipeline, PROMPTS[0], np.int64(3), np.int64(1))
    again, _ = sample_image(untrained_pipeline, PROMPTS[0], 3, 1)
    assert (image.size, image.tobytes(), remarks) == ((SIZE, SIZE), again.tobytes(), [])
    _, (unknown, cut) = sample_image(untrained_pipeline, "a red unicorn " * 30, 3, 1)
    assert "unicorn" in unknown
    assert str(untrained_pipeline.tokenizer.model_max_length - 2) in cut


@pytest.mark.parametrize("seed", [True, np.True_, torch.tensor(True), 1.0, "1"])
def test_seeds_are_integers_of_any_library(untrained_pipeline, noise, seed):
    with pytest.raises(ValueError, match="seed is"):
        sample_image(untrained_pipeline, PROMPTS[0], seed, 1)
    with pytest.raises(ValueError, match="seed is"):
        sample_latents(untrained_pipeline, PROMPTS[:1], noise[:1], 1, seed=seed)


def test_an_image_of_nan_has_a_remark(untrained_pipeline):
    untrained_pipeline.vae = copy.deepcopy(untrained_pipeline.vae)
    untrained_pipeline.vae.decoder.conv_in.weight.fill_(torch.nan)
    image, (remark,) = sample_image(untrained_pipeline, PROMPTS[0], 3, 1)
    assert "NaN" in remark
    assert "float32" in remark
    assert image.getextrema() == ((0, 0),) * 3
