"""Third stage: text encoders and UNet together, the many-step teacher."""

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.render import render
from nitro_lab.mini.training import Progress, descend, make_optimizer, plateau_rate
from nitro_lab.mini.world import FACTORS, caption, draw_scenes, split_scenes
from nitro_lab.sampling import encode, encode_prompts, predict_noise
from nitro_lab.snapshots import Snapshot

EMPTY_SHARE = 0.1  # captions dropped whole, for guidance
PARTIAL_SHARE = 0.15  # captions that leave factors unsaid, so that "a red star" is understood
UNSAID_SHARE = 0.4  # factors that such a caption leaves unsaid
SNR_CAP = 5.0
WEIGHT_CAP = 20.0


def train_teacher(recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline) -> Iterator[Progress]:
    """Noise prediction with weights for each noise level, averaged weights, captions dropped for guidance.

    `pipe` holds the trained autoencoder, and the text encoders and UNet to train in place.
    """
    device = pipe.unet.device
    trained = nn.ModuleDict({name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2", "unet")}).train()
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(recipe.teacher_ema))
    optimizer = make_optimizer(trained.parameters())
    generator = torch.Generator(device).manual_seed(recipe.seed + 2)
    losses = torch.zeros(recipe.teacher_steps)
    forward_process = DDPMScheduler.from_config(pipe.scheduler.config)
    scenes, _ = split_scenes()
    snapshot = Snapshot(
        path,
        recipe.settings("teacher"),
        model=trained,
        average=average,
        optimizer=optimizer,
        generator=generator,
        losses=losses,
    )
    for step in snapshot.steps(recipe.teacher_steps, recipe.save_every):
        batch = draw_scenes(scenes, recipe.teacher_batch, generator)
        latents = encode(pipe, render(batch, generator))
        conditioning = encode_prompts(pipe, draw_captions(batch, generator))
        noise = torch.randn(latents.shape, generator=generator, device=device)
        t = torch.randint(1000, (len(batch),), generator=generator, device=device)
        eps = predict_noise(pipe.unet, forward_process.add_noise(latents, noise, t), t, conditioning)
        loss = ((eps - noise).square().mean((1, 2, 3)) * loss_weight(compute_snr(forward_process, t))).mean()
        descend(optimizer, loss, plateau_rate(recipe.teacher_rate, step, recipe.teacher_steps))
        average.update_parameters(trained)
        losses[step] = loss.detach()
        yield Progress(step + 1, recipe.teacher_steps, losses[step].item())
    trained.load_state_dict(average.module.state_dict())
    trained.eval()


def loss_weight(snr: torch.Tensor) -> torch.Tensor:
    """Weight of the squared error of ε at a signal-to-noise ratio, (B,).

    In the measure of x0 it is min(SNR + 1, 5): v-prediction's weight under min-SNR-5's cap (Hang et al. 2023). Plain
    min-SNR gives almost pure noise the weight SNR, and there the layout is decided, which the caption alone knows;
    a teacher trained so did not listen to the words for place. The cap keeps those few t from ruling the gradient.
    """
    return ((snr + 1).clamp(max=SNR_CAP) / snr).clamp(max=WEIGHT_CAP)


def draw_captions(scenes: torch.Tensor, generator: torch.Generator) -> list[str]:
    """Captions of scenes (B, 6): most are whole, some leave factors unsaid, some are empty."""
    fate = torch.rand(len(scenes), generator=generator, device=generator.device).cpu()
    said = torch.rand(len(scenes), len(FACTORS), generator=generator, device=generator.device).cpu() > UNSAID_SHARE
    said |= (fate > EMPTY_SHARE + PARTIAL_SHARE)[:, None]
    rows = zip(fate.tolist(), scenes.cpu(), said, strict=True)
    return ["" if chance < EMPTY_SHARE else caption(scene, kept) for chance, scene, kept in rows]
