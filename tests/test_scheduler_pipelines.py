"""The shifted scheduler inside diffusers' own pipelines: text-to-image, image-to-image and inpainting."""

from unittest.mock import Mock

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline

from nitro_lab.mini.render import SIZE, render
from nitro_lab.mini.world import sample_scenes, split_scenes
from nitro_lab.scheduler import TimestepShiftLCMScheduler

PROMPT = "a large solid red star in the center on a night background"
TIMESTEPS = {1: [999], 2: [999, 499], 3: [999, 749, 499], 4: [999, 749, 499, 249]}
CALL = {"guidance_scale": 0, "output_type": "latent"}
STRENGTHS = {0.25: [249], 0.5: [499, 249], 0.75: [749, 499, 249], 0.8: [749, 499, 249], 1.0: [999, 749, 499, 249]}


class Spy:
    """Records the calls of the UNet and of `add_noise`."""

    def __init__(self, pipe, monkeypatch):
        self.alphas = pipe.scheduler.alphas_cumprod
        self.forward, self.add_noise = Mock(wraps=pipe.unet.forward), Mock(wraps=pipe.scheduler.add_noise)
        monkeypatch.setattr(pipe.unet, "forward", self.forward)
        monkeypatch.setattr(pipe.scheduler, "add_noise", self.add_noise)

    @property
    def inputs(self) -> list[tuple[torch.Tensor, int]]:
        """Latents and timesteps that the UNet got."""
        return [(call.args[0], int(call.args[1])) for call in self.forward.call_args_list]

    def at_timestep(self, t: int) -> torch.Tensor:
        """The clean latents that the pipeline noised first, with that same noise, at another timestep."""
        clean, noise, _ = self.add_noise.call_args_list[0].args
        return self.alphas[t].sqrt() * clean + (1 - self.alphas[t]).sqrt() * noise


@pytest.fixture
def image() -> torch.Tensor:
    """One scene of the world, (1, 3, 64, 64) in [0, 1]."""
    generator = torch.Generator().manual_seed(4)
    return (render(sample_scenes(split_scenes()[0], 1, generator), generator) + 1) / 2


def shifted(pipeline_class, base, shift=250):
    """A pipeline of the base's parts with the shifted scheduler."""
    pipe = pipeline_class.from_pipe(base, vae=base.vae)
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(base.scheduler.config, shifted_timestep=shift)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seed_0() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("steps", TIMESTEPS)
@pytest.mark.parametrize("shift", [250, 500])
def test_unet_gets_the_shifted_timesteps(untrained_pipeline, shift, steps, monkeypatch):
    pipe = shifted(StableDiffusionXLPipeline, untrained_pipeline, shift)
    spy = Spy(pipe, monkeypatch)
    pipe(PROMPT, num_inference_steps=steps, generator=seed_0(), **CALL)
    assert [timestep for _, timestep in spy.inputs] == [t * shift // 1000 for t in TIMESTEPS[steps]]
    assert torch.equal(spy.inputs[0][0], torch.randn(1, 4, 16, 16, generator=seed_0()))


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shift", [250, 500])
def test_image_to_image_adds_noise_of_the_unshifted_timestep(untrained_pipeline, image, shift, strength, monkeypatch):
    pipe = shifted(StableDiffusionXLImg2ImgPipeline, untrained_pipeline, shift)
    spy = Spy(pipe, monkeypatch)
    pipe(PROMPT, image=image, strength=strength, num_inference_steps=4, generator=seed_0(), **CALL)
    timesteps = STRENGTHS[strength]
    assert [timestep for _, timestep in spy.inputs] == [t * shift // 1000 for t in timesteps]
    assert spy.add_noise.call_count == 1
    torch.testing.assert_close(spy.inputs[0][0], spy.at_timestep(timesteps[0]))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_inpainting_keeps_the_rest_at_the_unshifted_timesteps(untrained_pipeline, image, strength, monkeypatch):
    """Outside the mask each step starts from the image, noised to that step's timestep; the result is the image."""
    pipe = shifted(StableDiffusionXLInpaintPipeline, untrained_pipeline)
    spy = Spy(pipe, monkeypatch)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    images = {"image": image, "mask_image": mask, "height": SIZE, "width": SIZE, "strength": strength}
    latents = pipe(PROMPT, **images, num_inference_steps=4, generator=seed_0(), **CALL).images
    timesteps = STRENGTHS[strength]
    assert [timestep for _, timestep in spy.inputs] == [t // 4 for t in timesteps]
    half = latents.shape[-1] // 2
    first = 1 if strength == 1.0 else 0  # at full strength diffusers starts from noise alone
    for (given, _), t in list(zip(spy.inputs, timesteps, strict=True))[first:]:
        torch.testing.assert_close(given[..., half:], spy.at_timestep(t)[..., half:])
    clean = spy.add_noise.call_args_list[0].args[0]
    torch.testing.assert_close(latents[..., half:], clean[..., half:])
    assert not torch.allclose(latents[..., :half], clean[..., :half])


def test_cuts_of_a_schedule_are_refused_and_timesteps_do_the_same(untrained_pipeline, image, monkeypatch):
    pipe = shifted(StableDiffusionXLPipeline, untrained_pipeline)
    second = shifted(StableDiffusionXLImg2ImgPipeline, pipe)
    for steps in (1, 4):
        with pytest.raises(ValueError, match=r"denoising_end is 0\.5.*timesteps="):
            pipe(PROMPT, num_inference_steps=steps, denoising_end=0.5, **CALL)
        with pytest.raises(ValueError, match=r"denoising_start is 0\.25.*timesteps="):
            second(PROMPT, image=image, num_inference_steps=steps, denoising_start=0.25, **CALL)
    whole = pipe(PROMPT, num_inference_steps=4, denoising_end=1.0, generator=seed_0(), **CALL).images
    second.scheduler = pipe.scheduler
    spy, generator = Spy(pipe, monkeypatch), seed_0()
    latents = pipe(PROMPT, timesteps=[999, 749], denoising_end=1.0, generator=generator, **CALL).images
    parts = second(PROMPT, image=latents, timesteps=[499, 249], strength=1.0, generator=generator, **CALL).images
    assert [timestep for _, timestep in spy.inputs] == [249, 187, 124, 62]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    unshifted = shifted(StableDiffusionXLPipeline, untrained_pipeline, 1000)
    unshifted(PROMPT, num_inference_steps=4, denoising_end=0.5, **CALL)
    assert unshifted.num_timesteps == 2


@pytest.mark.parametrize("shift", [250, 1000])
@pytest.mark.parametrize(("steps", "strength"), [(1, 0.5), (2, 0.3), (4, 0.2)])
def test_a_strength_that_leaves_no_step_is_refused(untrained_pipeline, image, steps, strength, shift):
    pipe = shifted(StableDiffusionXLImg2ImgPipeline, untrained_pipeline, shift)
    with pytest.raises(ValueError, match=f"strength is {strength}.*1/{steps}"):
        pipe(PROMPT, image=image, strength=strength, num_inference_steps=steps, **CALL)
