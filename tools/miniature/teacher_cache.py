"""Fourth stage: pairs of noise and teacher sample, kept on disk.

With a deterministic solver every star and every blade of grass is a function of x_T; a student that is regressed on
such pairs for long enough learns all of them, and discriminators have nothing left to add. The teachers of large
students are different (DMD2 adds noise before each of its steps), and so is this one: a sample is noised part of the
way back and denoised again, as in image-to-image. Layout, shape and texture still follow from x_T; fine details are
random. A regression learns their mean, which is soft.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from nitro_lab.checkpoint import Checkpoint
from nitro_lab.mini.world import caption, sample_scenes, split_scenes
from nitro_lab.sampling import latent_shape, sample_latents
from tools.miniature.optimization import Progress
from tools.miniature.parts import PIPELINE_OPTIONS
from tools.miniature.recipes import Recipe

__all__ = ["cache_teacher", "load_pairs", "sample_twice"]


def cache_teacher(recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline) -> Iterator[Progress]:
    """Sample the teacher for training captions, one batch a step; `load_pairs` reads the file.

    The loss that it reports is the mean square of x0, which is about 1 for latents of the right variance.
    """
    generator = torch.Generator(pipe.unet.device).manual_seed(recipe.seed + 3)
    scenes = sample_scenes(split_scenes()[0], recipe.cache_pairs, generator)
    noise = torch.randn((recipe.cache_pairs, *latent_shape(pipe)), generator=generator, device=generator.device)
    x0 = torch.zeros_like(noise)
    batches = range(0, recipe.cache_pairs, recipe.cache_batch_size)
    seconds = torch.zeros(len(batches))
    parts: dict[str, torch.Tensor] = {"scenes": scenes, "noise": noise, "x0": x0, "seconds": seconds}
    for step in Checkpoint(path, recipe.settings("cache"), generator=generator, **parts).steps(len(batches), every=4):
        start = time.perf_counter()
        rows = slice(batches[step], batches[step] + recipe.cache_batch_size)
        prompts = [caption(scene) for scene in scenes[rows]]
        x0[rows] = sample_twice(recipe, pipe, prompts, noise[rows], generator)
        seconds[step] = time.perf_counter() - start
        yield Progress(step + 1, len(batches), x0[rows].square().mean().item())


def sample_twice(
    recipe: Recipe, pipe: StableDiffusionXLPipeline, prompts: list[str], x_T: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Sample the teacher from x_T (N, C, H, W), noise the samples part of the way, and denoise them again."""
    steps, guidance, size = recipe.cache_num_inference_steps, recipe.cache_guidance_scale, recipe.cache_batch_size
    x0 = sample_latents(pipe, prompts, x_T, steps, guidance, size)
    if not recipe.cache_strength:
        return x0
    image_to_image = StableDiffusionXLImg2ImgPipeline(**pipe.components, **PIPELINE_OPTIONS)
    image_to_image.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "strength": recipe.cache_strength}
    batches = [
        image_to_image(
            prompts[i : i + size], image=x0[i : i + size], generator=generator, output_type="latent", **options
        ).images
        for i in range(0, len(prompts), size)
    ]
    return torch.cat(batches)


def load_pairs(path: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Load the scenes (N, 6), x_T and x0 (N, 4, 16, 16) of a complete cache."""
    tensors = load_file(path, device=str(device))
    return tensors["scenes/value"], tensors["noise/value"], tensors["x0/value"]
