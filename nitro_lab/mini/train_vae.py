"""First stage: the autoencoder, on endless fresh pictures."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.render import render
from nitro_lab.mini.training import Progress, descend, make_optimizer, plateau_rate
from nitro_lab.mini.world import draw_scenes, split_scenes
from nitro_lab.snapshots import Snapshot


def train_vae(recipe: Recipe, path: Path, vae: AutoencoderKL) -> Iterator[Progress]:
    """Squared error of the decoded picture, and a light Kullback-Leibler term that keeps latents near unit variance."""
    vae.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(vae.train().parameters())
    generator = torch.Generator(vae.device).manual_seed(recipe.seed)
    losses = torch.zeros(recipe.vae_steps)
    scenes, _ = split_scenes()
    snapshot = Snapshot(
        path, recipe.settings("vae"), model=vae, optimizer=optimizer, generator=generator, losses=losses
    )
    for step in snapshot.steps(recipe.vae_steps, recipe.save_every):
        images = render(draw_scenes(scenes, recipe.vae_batch, generator), generator)
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        latents = posterior.sample(generator)
        error = F.mse_loss(vae.decode(latents).sample, images)
        divergence = posterior.kl().mean() / latents[0].numel()
        rate = plateau_rate(recipe.vae_rate, step, recipe.vae_steps)
        descend(optimizer, error + recipe.vae_kl_weight * divergence, rate)
        losses[step] = error.detach()
        yield Progress(step + 1, recipe.vae_steps, losses[step].item())
    vae.eval()
    vae.register_to_config(scaling_factor=1 / latent_spread(vae, scenes, generator))


@torch.no_grad()
def latent_spread(vae: AutoencoderKL, scenes: torch.Tensor, generator: torch.Generator, count: int = 1024) -> float:
    """Standard deviation of the latents of fresh pictures."""
    batches = render(draw_scenes(scenes, count, generator), generator).split(64)
    return torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches]).std().item()
