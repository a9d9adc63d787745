"""The timestep shift: schedules in numbers, propagation of errors, and the miniature at other shifts."""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from statistics import mean, stdev

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from torch import Generator, Tensor

from nitro_lab.evaluation.eval_set import EvalSet, sample_eval_set
from nitro_lab.evaluation.metrics import factor_accuracy, frechet_distance
from nitro_lab.mini.world import FACTORS
from nitro_lab.sampling import encode_prompts, predict_noise, x0_from_eps
from nitro_lab.scheduler import TimestepShiftLCMScheduler

__all__ = [
    "EPS",
    "NOISE",
    "X_T",
    "ScheduleStep",
    "SweepPoint",
    "golden_rows",
    "one_step_x0",
    "read_schedule",
    "rmse",
    "sigmas",
    "sweep_shift",
    "target_std",
    "with_shift",
    "x0_with_error",
]

X_T, EPS, NOISE = (0.5, -1.0, 1.5), (0.3, -0.2, 1.0), (-0.4, 0.9, 0.1)  # inputs of `golden_rows`


@dataclass(frozen=True)
class ScheduleStep:
    """The timesteps of one step: the latent's t, the UNet's shifted t', and the next latent's (None after the last)."""

    t: int
    shifted: int
    next_t: int | None


def read_schedule(scheduler: TimestepShiftLCMScheduler, num_inference_steps: int) -> list[ScheduleStep]:
    """Set a schedule and return its steps."""
    scheduler.set_timesteps(num_inference_steps)
    t, shifted = scheduler.unshifted_timesteps.tolist(), scheduler.timesteps.tolist()
    return [ScheduleStep(*row) for row in zip(t, shifted, [*t[1:], None], strict=True)]


def sigmas(alphas_cumprod: Tensor) -> Tensor:
    """Return σ = √((1−ᾱ)/ᾱ), the noise level in the convention of k-diffusion and ComfyUI."""
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def target_std(alphas_cumprod: Tensor) -> Tensor:
    """Return the standard deviation of a one-step student's target ε' at each shifted timestep, (N,) -> (N,).

    ε' = (x_T − √ᾱ'·x0) / √(1−ᾱ') for a latent at the last timestep, with x0 and the noise of variance 1.
    """
    alpha, last = alphas_cumprod.double(), alphas_cumprod[-1].double()
    return (((last.sqrt() - alpha.sqrt()).square() + 1 - last) / (1 - alpha)).sqrt()


def golden_rows(shift: int, num_inference_steps: int = 4) -> list[dict[str, object]]:
    """Compute reference values of a schedule for ports of the scheduler, by the closed form in float64.

    The first x is `X_T`, the UNet always predicts `EPS`, and the noise is always `NOISE`. LCM's boundary condition is
    left out: it changes the values by less than 2e-5.
    """
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    alphas = scheduler.alphas_cumprod.double()
    x, eps, noise = (torch.tensor(row, dtype=torch.float64) for row in (X_T, EPS, NOISE))
    rows = []
    for step in read_schedule(scheduler, num_inference_steps):
        x0 = x = x0_from_eps(alphas, x, eps, step.shifted).flatten()
        if step.next_t is not None:
            x = alphas[step.next_t].sqrt() * x0 + (1 - alphas[step.next_t]).sqrt() * noise
        row: dict[str, object] = {"t": step.t, "t'": step.shifted}
        for name, t in (("t", step.t), ("t'", step.shifted)):
            row |= {f"ᾱ({name})": round(alphas[t].item(), 6), f"σ({name})": round(sigmas(alphas)[t].item(), 6)}
        rows.append(row | {"x0": x0.numpy().round(4).tolist(), "next x": x.numpy().round(4).tolist()})
    return rows


def x0_with_error(alphas_cumprod: Tensor, latents: Tensor, timestep: int, std: float, generator: Generator) -> Tensor:
    """Noise latents (N, C, H, W) to the last timestep, and compute x0 at `timestep` from an ε' with a random error."""
    noise, error = torch.randn((2, *latents.shape), generator=generator).to(latents)
    last, alpha = (alphas_cumprod[t].to(latents) for t in (-1, timestep))
    x_T = last.sqrt() * latents + (1 - last).sqrt() * noise
    eps = (x_T - alpha.sqrt() * latents) / (1 - alpha).sqrt()
    return x0_from_eps(alphas_cumprod, x_T, eps + std * error, timestep)


def rmse(x: Tensor, y: Tensor) -> float:
    """Return the root mean square of the difference of two tensors."""
    return (x - y).float().square().mean().sqrt().item()


@torch.no_grad()
def one_step_x0(pipe: Pipeline, prompts: Sequence[str], x_T: Tensor, timestep: int) -> Tensor:
    """Predict x0 in one step from noise (N, C, H, W), with any timestep in place of the scheduler's."""
    x_T = x_T.to(pipe.unet.device, pipe.unet.dtype)
    eps = predict_noise(pipe.unet, x_T, timestep, encode_prompts(pipe, prompts))
    return x0_from_eps(pipe.scheduler.alphas_cumprod, x_T, eps, timestep)


def with_shift(pipe: Pipeline, shift: int) -> Pipeline:
    """Return a pipeline that shares the models of `pipe` and has its own scheduler with another shift."""
    other = copy(pipe)
    other.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=shift)
    return other


@dataclass(frozen=True)
class SweepPoint:
    """Metrics of one model at one shift: (mean over groups of images, standard error)."""

    shift: int
    accuracy: tuple[float, float]  # fraction of images with all six factors right
    fd: tuple[float, float]
    images: Tensor  # (N, 3, h, w) in [-1, 1]


def sweep_shift(pipe: Pipeline, eval_set: EvalSet, shifts: Sequence[int], groups: int) -> Iterator[SweepPoint]:
    """Sample the evaluation set in one step at each shift, and measure it in `groups`, 2 or more."""
    for shift in shifts:
        images = sample_eval_set(eval_set, with_shift(pipe, shift), num_inference_steps=1)
        prediction = eval_set.classifier.predict(images.float())
        pairs = zip(prediction.factors.chunk(groups), eval_set.scenes.chunk(groups), strict=True)
        accuracies = [factor_accuracy(predicted, expected, tuple(FACTORS))["all"] for predicted, expected in pairs]
        distances = [frechet_distance(eval_set.reference_features, x) for x in prediction.features.chunk(groups)]
        accuracy, fd = ((mean(values), stdev(values) / len(values) ** 0.5) for values in (accuracies, distances))
        yield SweepPoint(shift, accuracy, fd, images)
