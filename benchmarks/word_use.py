"""Measures how much the teacher's error grows when the caption names another texture than the image has.

    python benchmarks/word_use.py --csv docs/word_use.csv

Renders of held-out captions are noised, and the teacher predicts the noise with the correct caption and with captions
that name another texture. The ratio of the mean squared errors, less 1, is what the correct word is worth at that noise
level; it is zero for two words that the teacher does not distinguish.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
import tyro
from diffusers import DDPMScheduler, StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.evaluation.table import TEACHER
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, caption, split_scenes
from nitro_lab.sampling import encode, encode_prompts, predict_noise

FACTOR = list(FACTORS).index("texture")
TEXTURES = FACTORS["texture"]


def main(
    timesteps: tuple[int, ...] = (900, 700, 500, 300), num_images: int = 64, seed: int = 0, csv: Path | None = None
) -> None:
    """Print the table, one row for each texture and timestep, of `num_images` renders of each texture."""
    table = pd.DataFrame(measure(load_pipeline(TEACHER), timesteps, num_images, seed))
    print(table.to_string(index=False))
    if csv:
        table.to_csv(csv, index=False)


@torch.no_grad()
def measure(
    pipe: StableDiffusionXLPipeline, timesteps: tuple[int, ...], num_images: int, seed: int
) -> Iterator[dict[str, str]]:
    """Yield the increase of the error, in per cent, by texture of the image, timestep, and texture of the caption."""
    process = DDPMScheduler.from_config(pipe.scheduler.config)
    for actual, name in enumerate(TEXTURES):
        generator = torch.Generator().manual_seed(seed)
        scenes = torch.stack([scene for scene in split_scenes()[1] if scene[FACTOR] == actual][:num_images])
        latents = encode(pipe, render(scenes, generator).to(pipe.device))
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        embeds = []
        for named in range(len(TEXTURES)):
            scenes[:, FACTOR] = named
            embeds.append(encode_prompts(pipe, [caption(scene) for scene in scenes]))
        for t in timesteps:
            noisy = process.add_noise(latents, noise, torch.full((len(latents),), t))
            errors = [(predict_noise(pipe.unet, noisy, t, e) - noise).square().mean() for e in embeds]
            increases = [f"{100 * (error / errors[actual] - 1).item():+.2f} %" for error in errors]
            yield {"texture": name, "t": str(t)} | dict(zip(TEXTURES, increases, strict=True))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
