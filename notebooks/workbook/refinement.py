"""What does each further step change, is it still the same image, and what does it cost?

Images are (N, 3, H, W) in [-1, 1]; images of one column started from the same noise.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.sampling import SamplerStep, decode, encode_prompts, sample_latents, sample_trajectory

__all__ = [
    "LAYOUT_CUTOFF",
    "VISIBLE",
    "change_table",
    "layout_similarity",
    "low_pass",
    "read_metrics",
    "same_factors",
    "sample_every_step",
    "seconds_per_image",
    "unet_inputs",
]

LAYOUT_CUTOFF = 1 / 8  # cycles per pixel: waves longer than eight pixels are layout, shorter ones detail
VISIBLE = 0.2  # a tenth of the range of a channel
_BATCH_SIZE = 64


@torch.no_grad()
def sample_every_step(
    pipe: StableDiffusionXLPipeline, prompts: Sequence[str], x_T: Tensor, num_inference_steps: int, seed: int = 0
) -> Tensor:
    """Decode the x0 predicted at each step, from noise (N, C, h, w), to images (num_inference_steps, N, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for rows in torch.arange(len(prompts)).split(_BATCH_SIZE):
        inputs = x_T[rows.to(x_T.device)], encode_prompts(pipe, [prompts[row] for row in rows]), num_inference_steps
        trajectory = sample_trajectory(pipe.unet, pipe.scheduler, *inputs, generator=generator)
        batches.append(torch.stack([decode(pipe, step.x0) for step in trajectory]))
    return torch.cat(batches, 1)


def unet_inputs(x_T: Tensor, trajectory: Sequence[SamplerStep]) -> Tensor:
    """Return the latents that each step of a trajectory from x_T passes to the UNet: (steps·N, C, h, w)."""
    return torch.cat([x_T.to(trajectory[0].latents), *(step.latents for step in trajectory[:-1])])


def low_pass(images: Tensor, cutoff: float = LAYOUT_CUTOFF) -> Tensor:
    """Keep the frequencies up to `cutoff` (cycles per pixel), by Fourier transform."""
    height, width = images.shape[-2:]
    down, across = (torch.fft.fftfreq(side, device=images.device) for side in (height, width))
    kept = torch.hypot(down[:, None], across) <= cutoff
    return torch.fft.ifft2(torch.fft.fft2(images.float()) * kept).real


def change_table(images: Tensor) -> pd.DataFrame:
    """Measure what changes from each step to the next of images (steps, N, 3, H, W), one row per step from the second.

    Columns: fraction of pixels where a channel changed by more than `VISIBLE`; mean square of the change; fraction of
    it that is layout. Layout and detail add up to the whole (Parseval).
    """
    rows = {}
    for k, (before, after) in enumerate(pairwise(images.float()), 1):
        change = after - before
        changed, whole = (change.abs().amax(1) > VISIBLE).double().mean().item(), change.square().mean().item()
        rows[f"step {k} to {k + 1}"] = changed, whole, low_pass(change).square().mean().item() / whole
    return pd.DataFrame.from_dict(rows, "index", columns=["changed pixels", "mean square", "layout"])


def layout_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Correlate the layouts (`low_pass`) of N pairs of images, (N,): 1 is the same layout, 0 is unrelated."""
    one, other = (low_pass(images).flatten(1) for images in (first, second))
    return torch.cosine_similarity(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True))


def same_factors(classifier: SceneClassifier, first: Tensor, second: Tensor) -> Tensor:
    """Whether the classifier predicts the same factors for N pairs of images, (N, 6) booleans."""
    return classifier.predict(first.float()).factors == classifier.predict(second.float()).factors


def seconds_per_image(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    x_T: Tensor,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    repeats: int = 3,
) -> float:
    """Time sampling and decoding of one batch, per image: the fastest of `repeats` runs after a warm-up."""
    seconds = []
    for n in (1, *[num_inference_steps] * repeats):
        start = time.perf_counter()  # item() waits for a GPU
        decode(pipe, sample_latents(pipe, prompts, x_T, n, guidance_scale, batch_size=len(prompts))).sum().item()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:]) / len(prompts)


def read_metrics(file: Path, num_images: int) -> dict[str, pd.DataFrame]:
    """Read the table of `benchmarks/refinement.py`: the rows of each model, sorted by number of steps.

    Raises:
        ValueError: if the file has no rows for this number of images.
    """
    table = pd.read_csv(file).query("images == @num_images").sort_values("steps", kind="stable")
    if table.empty:
        raise ValueError(f"{file} has no rows with images = {num_images}; run benchmarks/refinement.py to add them.")
    return {str(model): rows for model, rows in table.groupby("model", sort=False)}
