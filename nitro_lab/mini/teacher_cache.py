"""Fourth stage: the teacher's noise-to-image pairs, kept on disk.

A deterministic solver makes every star and every blade of grass a function of x_T, and a student that is regressed on
such pairs for long enough learns them all: then one step lacks nothing, and critics have nothing to say. The teachers
of large students are not like that (DMD2 adds fresh noise before each of its steps), and neither is this one: a sample
is taken back to half of the noise and drawn again from there, as image-to-image does. Layout, shape and texture stay
those of x_T; fine detail is up to chance. What a regression learns of chance is its mean, and that is soft.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from nitro_lab.mini.parts import PIPELINE_OPTIONS
from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.training import Progress
from nitro_lab.mini.world import caption, draw_scenes, split_scenes
from nitro_lab.sampling import generate, latent_shape
from nitro_lab.snapshots import Snapshot


def cache_teacher(recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline) -> Iterator[Progress]:
    """Sample the teacher on training captions, a batch a step.

    The file holds scenes (N, 6), noise x_T (N, 4, 16, 16) and the teacher's x0 (N, 4, 16, 16); `load_pairs` reads it.
    The progress' loss is the mean square of x0: about 1, if the latents have the variance that they should.
    """
    generator = torch.Generator(pipe.unet.device).manual_seed(recipe.seed + 3)
    scenes, _ = split_scenes()
    drawn = draw_scenes(scenes, recipe.cache_pairs, generator)
    noise = torch.randn((recipe.cache_pairs, *latent_shape(pipe)), generator=generator, device=generator.device)
    x0 = torch.zeros_like(noise)
    snapshot = Snapshot(path, recipe.settings("cache"), scenes=drawn, noise=noise, x0=x0, generator=generator)
    batches = range(0, recipe.cache_pairs, recipe.cache_batch)
    for step in snapshot.steps(len(batches), every=4):
        rows = slice(batches[step], batches[step] + recipe.cache_batch)
        prompts = [caption(scene) for scene in drawn[rows]]
        x0[rows] = draw_twice(recipe, pipe, prompts, noise[rows], generator)
        yield Progress(step + 1, len(batches), x0[rows].square().mean().item())


def draw_twice(
    recipe: Recipe, pipe: StableDiffusionXLPipeline, prompts: list[str], noise: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """The teacher's samples from x_T (N, C, H, W), taken back part of the way and drawn again with fresh noise."""
    x0 = generate(pipe, prompts, noise, recipe.cache_steps, recipe.cache_guidance, recipe.cache_batch)
    if not recipe.cache_redrawn:
        return x0
    again = StableDiffusionXLImg2ImgPipeline(**pipe.components, **PIPELINE_OPTIONS)
    again.set_progress_bar_config(disable=True)
    batches = [
        again(
            prompts[i : i + recipe.cache_batch],
            image=x0[i : i + recipe.cache_batch],
            strength=recipe.cache_redrawn,
            num_inference_steps=recipe.cache_steps,
            guidance_scale=recipe.cache_guidance,
            generator=generator,
            output_type="latent",
        ).images
        for i in range(0, len(prompts), recipe.cache_batch)
    ]
    return torch.cat(batches)


def load_pairs(path: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes (N, 6), x_T and x0 (N, 4, 16, 16) of a finished cache."""
    tensors = load_file(path, device=str(device))
    return tensors["scenes/value"], tensors["noise/value"], tensors["x0/value"]
