"""Does the teacher use a word? How much its error grows when the caption names another texture than the picture has.

    python benchmarks/word_use.py --csv docs/word_use.csv

Renders of held-out captions are noised, and the teacher predicts the noise twice: told the truth, and told another
texture. The mean squared error of the lie over that of the truth, less 1, is what the right word is worth at that noise
level. Between two words that the teacher takes for one another it is nothing.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.marks import TEACHER
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, caption, split_scenes
from nitro_lab.sampling import encode, encode_prompts, predict_noise

FACTOR = list(FACTORS).index("texture")
TEXTURES = FACTORS["texture"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, nargs="+", default=[900, 700, 500, 300])
    parser.add_argument("--images", type=int, default=64, help="of each texture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = list(study(load_pipeline(TEACHER), options.timesteps, options.images, options.seed))
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


@torch.no_grad()
def study(pipe: StableDiffusionXLPipeline, timesteps: list[int], images: int, seed: int) -> Iterator[dict[str, str]]:
    """A row for each texture that is there and each noise level: what each word costs, in per cent of the error."""
    process = DDPMScheduler.from_config(pipe.scheduler.config)
    for there, name in enumerate(TEXTURES):
        generator = torch.Generator().manual_seed(seed)
        scenes = [scene for scene in split_scenes()[1] if scene[FACTOR] == there][:images]
        latents = encode(pipe, render(torch.stack(scenes), generator).to(pipe.device))
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        words = range(len(TEXTURES))
        told = [encode_prompts(pipe, [caption(lie(scene, word)) for scene in scenes]) for word in words]
        for t in timesteps:
            noisy = process.add_noise(latents, noise, torch.full((len(latents),), t))
            errors = [(predict_noise(pipe.unet, noisy, torch.tensor(t), said) - noise).square().mean() for said in told]
            costs = [f"{100 * (error / errors[there] - 1).item():+.2f} %" for error in errors]
            yield {"there": name, "t": str(t)} | dict(zip(TEXTURES, costs, strict=True))


def lie(scene: torch.Tensor, texture: int) -> torch.Tensor:
    """The scene with another texture."""
    changed = scene.clone()
    changed[FACTOR] = texture
    return changed


if __name__ == "__main__":
    main()
