"""Fourth stage: the teacher's noise-to-image pairs, kept on disk."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

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
    snapshot = Snapshot(path, recipe.settings("cache"), scenes=drawn, noise=noise, x0=x0)
    batches = range(0, recipe.cache_pairs, recipe.cache_batch)
    for step in snapshot.steps(len(batches), every=1):
        rows = slice(batches[step], batches[step] + recipe.cache_batch)
        prompts = [caption(scene) for scene in drawn[rows]]
        x0[rows] = generate(
            pipe, prompts, noise[rows], recipe.cache_steps, recipe.cache_guidance, batch_size=recipe.cache_batch
        )
        yield Progress(step + 1, len(batches), x0[rows].square().mean().item())


def load_pairs(path: Path, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes (N, 6), x_T and x0 (N, 4, 16, 16) of a finished cache."""
    tensors = load_file(path, device=str(device))
    return tensors["scenes/value"], tensors["noise/value"], tensors["x0/value"]
