"""First stage: the autoencoder, on endless fresh pictures."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from nitro_lab.mini.parts import make_vae
from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.render import render
from nitro_lab.mini.training import Progress, plateau_rate, descend, make_optimizer, seeded
from nitro_lab.mini.world import draw_scenes, split_scenes
from nitro_lab.snapshots import Snapshot


def train_vae(recipe: Recipe, path: Path, device: torch.device) -> Iterator[Progress]:
    """Squared error of the decoded picture, and a light Kullback-Leibler term that keeps latents near unit variance."""
    vae = seeded(recipe.seed, make_vae).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(vae.parameters())
    generator = torch.Generator(device).manual_seed(recipe.seed)
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
        descend(optimizer, error + recipe.vae_kl_weight * divergence, plateau_rate(recipe.vae_rate, step, recipe.vae_steps))
        losses[step] = error.detach()
        yield Progress(step + 1, recipe.vae_steps, losses[step].item())
