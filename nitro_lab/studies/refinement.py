"""What does each further step change, and is it still the same picture? Pictures are compared with pictures.

Pictures are (N, 3, H, W) in [-1, 1]; those of one column started from the same noise.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab.mini.judge import Judge
from nitro_lab.sampling import Step, decode, encode_prompts, generate, watch

COARSE = 1 / 8  # cycles per pixel: waves longer than eight pixels are layout, shorter ones detail
VISIBLE = 0.2  # a tenth of the range of a channel
BATCH = 64


def predictions(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], noise: torch.Tensor, steps: int, seed: int = 0
) -> torch.Tensor:
    """The picture that a schedule believes in after each of its steps, from noise (N, C, h, w): (steps, N, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for rows in torch.arange(len(prompts)).split(BATCH):
        with torch.no_grad():
            words = encode_prompts(pipe, [prompts[row] for row in rows])
        path = watch(pipe.unet, pipe.scheduler, noise[rows], words, steps, generator=generator)
        parts.append(torch.stack([decode(pipe, step.x0) for step in path]))
    return torch.cat(parts, 1)


def noised(noise: torch.Tensor, path: Sequence[Step]) -> torch.Tensor:
    """What went into the UNet at each step of a path that started from this noise: (steps·N, C, h, w)."""
    return torch.cat([noise, *(step.latents for step in path[:-1])])


def low_pass(pictures: torch.Tensor, cutoff: float = COARSE) -> torch.Tensor:
    """What is left below a frequency in cycles per pixel, by Fourier transform."""
    height, width = pictures.shape[-2:]
    down, across = (torch.fft.fftfreq(side, device=pictures.device) for side in (height, width))
    kept = torch.hypot(down[:, None], across) <= cutoff
    return torch.fft.ifft2(torch.fft.fft2(pictures.float()) * kept).real


@dataclass(frozen=True)
class Change:
    """From one step to the next, over N pictures.

    coarse, fine: mean square of the change below and above `COARSE` cycles per pixel; moved: share of pixels in which
    some channel changed by more than `VISIBLE`.
    """

    coarse: float
    fine: float
    moved: float


def change(before: torch.Tensor, after: torch.Tensor) -> Change:
    """Is it layout or detail? The two parts add up to the whole mean square (Parseval)."""
    difference = (after - before).float()
    coarse = low_pass(difference)
    moved = (difference.abs().amax(1) > VISIBLE).double().mean().item()
    return Change(coarse.square().mean().item(), (difference - coarse).square().mean().item(), moved)


def likeness(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N,) correlation of the layouts of two pictures, what is below `COARSE`: 1 is the same, 0 is unrelated."""
    one, other = (low_pass(pictures).flatten(1) for pictures in (first, second))
    return torch.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True))


def same_scene(judge: Judge, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """(N, 6) booleans: factors that the judge reads alike off two pictures, whether they were asked for or not."""
    return judge.look(first.float()).factors == judge.look(second.float()).factors


def seconds_an_image(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    noise: torch.Tensor,
    steps: int,
    guidance: float = 0.0,
    repeats: int = 3,
) -> float:
    """Seconds from prompts to pictures, for each of N in one batch: the fastest of some runs after a short one."""
    spent = []
    for count in (1, *[steps] * repeats):
        start = time.perf_counter()
        latents = generate(pipe, prompts, noise, count, guidance, batch_size=len(prompts))
        decode(pipe, latents).sum().item()  # a number on the CPU: it waits for the GPU
        spent.append(time.perf_counter() - start)
    return min(spent[1:]) / len(prompts)


Rows = list[dict[str, str]]


def read_exams(file: Path, images: int) -> dict[str, Rows]:
    """Rows of `benchmarks/refinement.py` that sat with so many images, by model, each model's by its number of steps.

    Raises:
        ValueError: if the file has no such rows.
    """
    with file.open(newline="") as opened:
        rows = [row for row in csv.DictReader(opened) if int(row["images"]) == images]
    if not rows:
        raise ValueError(f"{file} holds no exam of {images} images; benchmarks/refinement.py adds some.")
    models: dict[str, Rows] = {}
    for row in sorted(rows, key=lambda row: int(row["steps"])):
        models.setdefault(row["model"], []).append(row)
    return models


def print_changes(changes: Mapping[str, Change]) -> None:
    """One line a step."""
    print(f"{'':24}{'pixels that moved':>18}{'mean square':>14}{'of that, layout':>18}")
    for name, one in changes.items():
        whole = one.coarse + one.fine
        print(f"{name:24}{one.moved:>18.1%}{whole:>14.4f}{one.coarse / whole:>18.0%}")
