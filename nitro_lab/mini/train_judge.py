"""Second stage: the judge, on fresh pictures, half of them through the autoencoder, three tenths with copies."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from nitro_lab.mini.judge import MOST_OBJECTS, Judge, scale_features
from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.render import render
from nitro_lab.mini.training import Progress, descend, make_optimizer, plateau_rate
from nitro_lab.mini.world import FACTORS, draw_scenes, split_scenes
from nitro_lab.snapshots import Snapshot

COPIES_SHARE = 0.3
ONLY_ALONE = ("size", "place")  # with copies in the picture, "how large?" and "where?" have no one answer


def train_judge(recipe: Recipe, path: Path, judge: Judge, vae: AutoencoderKL) -> Iterator[Progress]:
    """Cross-entropy of every question, on scenes of the training captions."""
    judge = judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs omit it
    optimizer = make_optimizer(judge.train().parameters())
    generator = torch.Generator(vae.device).manual_seed(recipe.seed + 1)
    losses = torch.zeros(recipe.judge_steps)
    scenes, _ = split_scenes()
    snapshot = Snapshot(
        path, recipe.settings("judge"), model=judge, optimizer=optimizer, generator=generator, losses=losses
    )
    for step in snapshot.steps(recipe.judge_steps, recipe.save_every):
        batch = draw_scenes(scenes, recipe.judge_batch, generator)
        counts = draw_counts(recipe.judge_batch, generator)
        images = through_vae(vae, render(batch, generator, counts), recipe.judge_batch // 2)
        logits, _ = judge(images.contiguous(memory_format=torch.channels_last))
        loss = judge_loss(logits, batch, counts)
        descend(optimizer, loss, plateau_rate(recipe.judge_rate, step, recipe.judge_steps))
        losses[step] = loss.detach()
        yield Progress(step + 1, recipe.judge_steps, losses[step].item())
    judge.eval()
    scale_features(judge, render(draw_scenes(scenes, 1024, generator), generator))


def draw_counts(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count,) numbers of objects: mostly one."""
    more = torch.randint(2, MOST_OBJECTS + 1, (count,), generator=generator, device=generator.device)
    repeated = torch.rand(count, generator=generator, device=generator.device) < COPIES_SHARE
    return torch.where(repeated, more, 1)


@torch.no_grad()
def through_vae(vae: AutoencoderKL, images: torch.Tensor, first: int) -> torch.Tensor:
    """Encode and decode the first pictures of a batch, as a sampler's pictures are decoded."""
    decoded = vae.decode(vae.encode(images[:first]).latent_dist.mode()).sample
    return torch.cat([decoded.clamp(-1, 1), images[first:]])


def judge_loss(logits: dict[str, torch.Tensor], scenes: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sum over the questions; those of `ONLY_ALONE` are asked of pictures with one object."""
    alone = counts == 1
    total = F.cross_entropy(logits["count"], counts - 1)
    for name, answers in zip(FACTORS, scenes.unbind(1), strict=True):
        asked = alone if name in ONLY_ALONE else torch.ones_like(alone)
        total = total + F.cross_entropy(logits[name][asked], answers[asked])
    return total
