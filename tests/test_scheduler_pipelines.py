"""The shifted scheduler inside diffusers' own pipelines: text-to-image, image-to-image and inpainting."""

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline

from nitro_lab.mini.noise import SIZE
from nitro_lab.mini.render import render
from nitro_lab.mini.world import draw_scenes, split_scenes
from nitro_lab.scheduler import TimestepShiftLCMScheduler

PROMPT = "a large solid red star in the center on a night background"
TRUE = {1: [999], 2: [999, 499], 3: [999, 749, 499], 4: [999, 749, 499, 249]}
STRENGTHS = {0.25: [249], 0.5: [499, 249], 0.75: [749, 499, 249], 0.8: [749, 499, 249], 1.0: [999, 749, 499, 249]}


class Spy:
    """Writes down what the UNet was given, and what noise was added to what."""

    def __init__(self, pipe, monkeypatch):
        self.inputs: list[tuple[torch.Tensor, int]] = []
        self.noised: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.alphas = pipe.scheduler.alphas_cumprod
        forward, add_noise = pipe.unet.forward, pipe.scheduler.add_noise

        def watched_forward(sample, timestep, *args, **kwargs):
            self.inputs.append((sample.clone(), int(timestep)))
            return forward(sample, timestep, *args, **kwargs)

        def watched_add_noise(clean, noise, timesteps):
            self.noised.append((clean.clone(), noise.clone()))
            return add_noise(clean, noise, timesteps)

        monkeypatch.setattr(pipe.unet, "forward", watched_forward)
        monkeypatch.setattr(pipe.scheduler, "add_noise", watched_add_noise)

    def at_level(self, true: int) -> torch.Tensor:
        """The clean latents that the pipeline noised first, with that same noise, at a true level."""
        clean, noise = self.noised[0]
        return self.alphas[true].sqrt() * clean + (1 - self.alphas[true]).sqrt() * noise


@pytest.fixture
def picture() -> torch.Tensor:
    """One scene of the world, (1, 3, 64, 64) in [0, 1]."""
    generator = torch.Generator().manual_seed(4)
    return (render(draw_scenes(split_scenes()[0], 1, generator), generator) + 1) / 2


@pytest.mark.parametrize("steps", TRUE)
@pytest.mark.parametrize("shift", [250, 500])
def test_unet_is_told_the_shifted_times(untrained_pipeline, shift, steps, monkeypatch):
    pipe = untrained_pipeline
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=shift)
    spy = Spy(pipe, monkeypatch)
    generator = torch.Generator().manual_seed(0)
    pipe(PROMPT, num_inference_steps=steps, guidance_scale=0, generator=generator, output_type="latent")
    assert [told for _, told in spy.inputs] == [t * shift // 1000 for t in TRUE[steps]]
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(spy.inputs[0][0], start)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("shift", [250, 500])
def test_image_to_image_noises_to_the_true_level(untrained_pipeline, picture, shift, strength, monkeypatch):
    pipe = StableDiffusionXLImg2ImgPipeline.from_pipe(untrained_pipeline, vae=untrained_pipeline.vae)
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=shift)
    pipe.set_progress_bar_config(disable=True)
    spy = Spy(pipe, monkeypatch)
    pipe(
        PROMPT,
        image=picture,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    )
    true = STRENGTHS[strength]
    assert [told for _, told in spy.inputs] == [t * shift // 1000 for t in true]
    assert len(spy.noised) == 1
    torch.testing.assert_close(spy.inputs[0][0], spy.at_level(true[0]))


@pytest.mark.parametrize("strength", STRENGTHS)
def test_inpainting_keeps_the_rest_at_the_true_level(untrained_pipeline, picture, strength, monkeypatch):
    """Outside the mask each step begins with the picture, noised to that step's true level, and ends with it clean."""
    pipe = StableDiffusionXLInpaintPipeline.from_pipe(untrained_pipeline, vae=untrained_pipeline.vae)
    pipe.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=250)
    pipe.set_progress_bar_config(disable=True)
    spy = Spy(pipe, monkeypatch)
    mask = torch.zeros(1, 1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    latents = pipe(
        PROMPT,
        image=picture,
        mask_image=mask,
        height=SIZE,
        width=SIZE,
        strength=strength,
        num_inference_steps=4,
        guidance_scale=0,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    true = STRENGTHS[strength]
    assert [told for _, told in spy.inputs] == [t // 4 for t in true]
    kept = (..., slice(latents.shape[-1] // 2, None))
    first = 1 if strength == 1.0 else 0  # at full strength diffusers starts from noise alone
    for (given, _), t in list(zip(spy.inputs, true, strict=True))[first:]:
        torch.testing.assert_close(given[kept], spy.at_level(t)[kept])
    torch.testing.assert_close(latents[kept], spy.noised[0][0][kept])
    assert not torch.allclose(latents[..., : latents.shape[-1] // 2], spy.noised[0][0][..., : latents.shape[-1] // 2])
