"""Fifth stage: a student, regressed on the teacher's pairs. Soft, and meant to be: no critic has come yet.

About half of its batches train one step, from x_T. The others train a later step of schedules of up to so many, from
the teacher's x0 with fresh noise, so that the student knows every time that it will be told when critics refine it.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.training import Progress, descend, make_optimizer, plateau_rate
from nitro_lab.mini.world import caption
from nitro_lab.sampling import encode_prompts, predict_noise, x0_from_noise
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.snapshots import Snapshot
from nitro_lab.stages import any_schedule

Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def train_regressed(
    recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline, student: UNet2DConditionModel, pairs: Pairs
) -> Iterator[Progress]:
    """Mean squared error of x0 in one step, from x_T or from a later noise level, under the shifted timestep.

    Args:
        pipe: the teacher; its text encoders are the student's too, and stay as they are.
        student: a copy of the teacher's UNet, trained in place.
        pairs: scenes (N, 6), x_T (N, 4, 16, 16) and the teacher's x0 (N, 4, 16, 16).
    """
    scenes, noise, x0 = pairs
    scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=recipe.regressed_shift)
    with torch.no_grad():
        conditioning = encode_prompts(pipe, [caption(scene) for scene in scenes])
    optimizer = make_optimizer(student.train().parameters())
    generator = torch.Generator(noise.device).manual_seed(recipe.seed + 4)
    losses = torch.zeros(recipe.regressed_steps)
    snapshot = Snapshot(
        path, recipe.settings("regressed"), model=student, optimizer=optimizer, generator=generator, losses=losses
    )
    for step in snapshot.steps(recipe.regressed_steps, recipe.save_every):
        rows = torch.randint(len(noise), (recipe.regressed_batch,), generator=generator, device=noise.device)
        turn = any_schedule(recipe.regressed_schedule, generator)
        scheduler.set_timesteps(turn.steps)
        told = scheduler.timesteps[turn.k - 1]
        latents = noise[rows]
        if turn.k > 1:
            fresh = torch.randn(latents.shape, generator=generator, device=noise.device)
            latents = scheduler.add_noise(x0[rows], fresh, told.expand(len(rows)))
        eps = predict_noise(student, latents, told, conditioning[rows])
        loss = F.mse_loss(x0_from_noise(scheduler.alphas_cumprod, latents, eps, told), x0[rows])
        descend(optimizer, loss, plateau_rate(recipe.regressed_rate, step, recipe.regressed_steps))
        losses[step] = loss.detach()
        yield Progress(step + 1, recipe.regressed_steps, losses[step].item())
    student.eval()
