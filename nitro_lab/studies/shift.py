"""What the scheduler notebook measures: the three clocks as numbers, and the miniature under other shifts."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab.evaluate import caption_accuracy, frechet_distance
from nitro_lab.exam import Exam, sit
from nitro_lab.mini.world import FACTORS
from nitro_lab.sampling import encode_prompts, predict_noise, x0_from_noise
from nitro_lab.scheduler import TimestepShiftLCMScheduler

SAMPLE, EPSILON, FRESH = (0.5, -1.0, 1.5), (0.3, -0.2, 1.0), (-0.4, 0.9, 0.1)  # the golden numbers' tiny input


@dataclass(frozen=True)
class Tick:
    """One step on the three clocks.

    true: t, the latent's noise level; told: t', what the UNet hears, and with ᾱ of which x0 is read off;
    then: the next step's t, where x0 is noised to, None after the last step.
    """

    true: int
    told: int
    then: int | None


def read_clocks(scheduler: TimestepShiftLCMScheduler, steps: int) -> list[Tick]:
    """Choose a schedule of `steps` steps and read it off the scheduler."""
    scheduler.set_timesteps(steps)
    true, told = scheduler.true_timesteps.tolist(), scheduler.timesteps.tolist()
    return [Tick(*row) for row in zip(true, told, [*true[1:], None], strict=True)]


def sigmas(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """σ = √((1−ᾱ)/ᾱ): noise over signal, the noise level in k-diffusion's and ComfyUI's convention."""
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def target_size(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Standard deviation of the ε that a one-step student must answer when it is told each t' (N,) -> (N,).

    The latent is at the last level T, so ε' = (x_T − √ᾱ'·x0) / √(1−ᾱ'), with x0 and the noise of variance 1.
    """
    told, last = alphas_cumprod.double(), alphas_cumprod[-1].double()
    return (((last.sqrt() - told.sqrt()).square() + 1 - last) / (1 - told)).sqrt()


def golden_rows(shift: int, steps: int = 4) -> list[dict[str, str]]:
    """A schedule in numbers, for people who port the scheduler: the closed form in float64.

    Each step starts from the row before, the first from `SAMPLE`; the UNet always answers `EPSILON`, and the fresh
    noise is always `FRESH`. (LCM's boundary condition, which changes these numbers by less than 2e-5, is left out.)
    """
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    alphas = scheduler.alphas_cumprod.double()
    sample, epsilon, fresh = (torch.tensor(row, dtype=torch.float64) for row in (SAMPLE, EPSILON, FRESH))
    rows = []
    for tick in read_clocks(scheduler, steps):
        told, sigma = alphas[tick.told], sigmas(alphas)
        x0 = (sample - (1 - told).sqrt() * epsilon) / told.sqrt()
        after = x0 if tick.then is None else alphas[tick.then].sqrt() * x0 + (1 - alphas[tick.then]).sqrt() * fresh
        levels = {"ᾱ(t)": alphas[tick.true], "σ(t)": sigma[tick.true], "ᾱ(t')": told, "σ(t')": sigma[tick.told]}
        rows.append({"t": str(tick.true), "t'": str(tick.told)})
        rows[-1] |= {name: f"{value:.6f}" for name, value in levels.items()}
        rows[-1] |= {"x0": vector(x0), "next x": vector(after)}
        sample = after
    return rows


def vector(values: torch.Tensor) -> str:
    """A few numbers in a cell of a table."""
    return ", ".join(f"{value:.4f}" for value in values.tolist())


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows of named cells as a table in Markdown."""
    lines = [list(rows[0]), ["---:"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def with_known_error(
    alphas_cumprod: torch.Tensor, latents: torch.Tensor, told: int, size: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise clean latents to the last level, and read them back at a told time with an answer that is a little wrong.

    Args:
        latents: x0, (N, C, H, W).
        size: standard deviation of the error in ε', the answer that would lead back to x0.

    Returns:
        x0 with the error that comes of it, (N, C, H, W).
    """
    noise, error = torch.randn((2, *latents.shape), generator=generator).to(latents)
    last, alpha = (alphas_cumprod[t].to(latents) for t in (-1, told))
    x_T = last.sqrt() * latents + (1 - last).sqrt() * noise
    answer = (x_T - alpha.sqrt() * latents) / (1 - alpha).sqrt()
    return x0_from_noise(alphas_cumprod, x_T, answer + size * error, told)


def rms(x: torch.Tensor, y: torch.Tensor) -> float:
    """Root mean square of the difference of two tensors of one shape."""
    return (x - y).float().square().mean().sqrt().item()


@torch.no_grad()
def one_step(pipe: StableDiffusionXLPipeline, prompts: Sequence[str], noise: torch.Tensor, told: int) -> torch.Tensor:
    """x0 in one step from pure noise (N, C, H, W), when the UNet is told any timestep at all."""
    noise = noise.to(pipe.unet.device, pipe.unet.dtype)
    eps = predict_noise(pipe.unet, noise, told, encode_prompts(pipe, prompts))
    return x0_from_noise(pipe.scheduler.alphas_cumprod, noise, eps, told)


@dataclass(frozen=True)
class SweepPoint:
    """Quality of one model at one shift: means over groups of images, and their standard errors.

    accuracy: share of images with all six factors right; distance: Fréchet, of the judge's features;
    images: (N, 3, h, w) in [-1, 1].
    """

    shift: int
    accuracy: float
    accuracy_error: float
    distance: float
    distance_error: float
    images: torch.Tensor


def at_shift(pipe: StableDiffusionXLPipeline, shift: int) -> StableDiffusionXLPipeline:
    """The same pipeline with a scheduler of its own, of another shift; the models are shared."""
    other = copy(pipe)
    other.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=shift)
    return other


def sweep_shift(
    pipe: StableDiffusionXLPipeline, exam: Exam, shifts: Sequence[int], groups: int
) -> Iterator[SweepPoint]:
    """Run one model at other shifts than it was trained for, in one step, on the same captions and noise.

    Args:
        groups: at least 2; each group of images is measured alone, so that the spread between them gives error bars.
    """
    for shift in shifts:
        images = sit(exam, at_shift(pipe, shift), steps=1)
        verdict = exam.judge.look(images.float())
        parts = list(zip(verdict.factors.chunk(groups), exam.scenes.chunk(groups), strict=True))
        shares = [caption_accuracy(seen, asked, tuple(FACTORS))["all"] for seen, asked in parts]
        distances = [frechet_distance(exam.reference, part) for part in verdict.features.chunk(groups)]
        yield SweepPoint(shift, *with_error(shares), *with_error(distances), images)


def with_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return mean(values), stdev(values) / len(values) ** 0.5
