"""Sampling in latents: single predictions, trajectories step by step, and batches through diffusers' pipeline."""

import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from diffusers import SchedulerMixin
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel as UNet
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Generator, Tensor
from tqdm.auto import tqdm

from nitro_lab.devices import to_device
from nitro_lab.integers import integer
from nitro_lab.randomness import randint_below
from nitro_lab.vae import batch_size_at, decode, device_of, encode, like_weights

__all__ = [
    "ONE_STEP",
    "STEP_SAMPLERS",
    "PromptEmbeds",
    "SamplerStep",
    "StudentStep",
    "batch_size_at",
    "decode",
    "encode",
    "encode_prompts",
    "format_steps",
    "latent_shape",
    "max_steps_at",
    "predict_noise",
    "predict_x0",
    "sample_image",
    "sample_latents",
    "sample_student_step",
    "sample_trajectory",
    "x0_from_eps",
]

_Generators = Generator | list[Generator] | None


@dataclass(frozen=True)
class PromptEmbeds:
    """What SDXL's UNet is conditioned on, for B prompts."""

    prompt_embeds: Tensor  # (B, L, D), the penultimate layers of both text encoders, concatenated
    pooled_prompt_embeds: Tensor  # (B, P)
    add_time_ids: Tensor  # (B, 6), original size, crop corner and target size in pixels

    def __getitem__(self, rows: slice | Tensor) -> "PromptEmbeds":
        return PromptEmbeds(self.prompt_embeds[rows], self.pooled_prompt_embeds[rows], self.add_time_ids[rows])

    def to(self, device: torch.device) -> "PromptEmbeds":
        """Move to a device; the host does not wait."""
        return PromptEmbeds(*(to_device(x, device) for x in vars(self).values()))

    def expand(self, count: int) -> "PromptEmbeds":
        """Repeat one row `count` times, without copying it."""
        return PromptEmbeds(*(x.expand(count, *x.shape[1:]) for x in vars(self).values()))


@dataclass(frozen=True)
class SamplerStep:
    """One step of a trajectory."""

    timestep: int  # the one passed to the UNet, t'
    x0: Tensor  # predicted at this step
    latents: Tensor  # the next ones


@dataclass(frozen=True)
class StudentStep:
    """What a batch trains: the k-th prediction, counted from 1, of a schedule of `num_inference_steps` steps."""

    num_inference_steps: int = 1
    k: int = 1


ONE_STEP = StudentStep()


def encode_prompts(pipe: Pipeline, prompts: Sequence[str]) -> PromptEmbeds:
    """Encode prompts with the pipeline's text encoders, and on their device. Gradients flow unless disabled."""
    device = device_of(pipe.text_encoder)
    embeds, _, pooled, _ = pipe.encode_prompt(list(prompts), device=device, do_classifier_free_guidance=False)
    side = pipe.default_sample_size * pipe.vae_scale_factor
    time_ids = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=embeds.dtype)
    return PromptEmbeds(embeds, pooled, time_ids.expand(len(prompts), -1))


def predict_noise(unet: UNet, latents: Tensor, timestep: Tensor | float, embeds: PromptEmbeds) -> Tensor:
    """Return the UNet's prediction for latents (B, C, H, W) at a timestep, one for all or (B,).

    The UNet gets everything on its device and in its dtype; the prediction has that of the latents.
    """
    x = like_weights(unet, latents)
    if not isinstance(timestep, Tensor) or timestep.dim() == 0:  # a copy to the GPU would have to wait for it
        timestep = torch.full((len(x),), float(timestep), device=x.device)
    embeds = embeds.to(x.device)
    added = {"text_embeds": embeds.pooled_prompt_embeds.to(x.dtype), "time_ids": embeds.add_time_ids}
    prompt_embeds = embeds.prompt_embeds.to(x.dtype)
    return unet(x, timestep, encoder_hidden_states=prompt_embeds, added_cond_kwargs=added).sample.to(latents.dtype)


def x0_from_eps(alphas_cumprod: Tensor, latents: Tensor, eps: Tensor, timestep: Tensor | int) -> Tensor:
    """Return x0 = (x − √(1−ᾱ)·ε) / √ᾱ, with ᾱ at `timestep`, one for all or (B,). Latents and eps (B, C, H, W)."""
    if isinstance(timestep, Tensor):
        alphas_cumprod = alphas_cumprod.to(timestep.device)
    alpha = alphas_cumprod[timestep].to(latents.dtype)
    if alpha.dim():  # one number may stay on the CPU
        alpha = alpha.to(latents.device).reshape(-1, 1, 1, 1)
    return (latents - (1 - alpha).sqrt() * eps) / alpha.sqrt()


def _x0_of_step(step: BaseOutput, scheduler: SchedulerMixin, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
    """Return x0 as the scheduler computed it, or else from the UNet's prediction."""
    x0 = getattr(step, "denoised", getattr(step, "pred_original_sample", None))
    if x0 is not None:
        return x0
    kind = scheduler.config.get("prediction_type")
    if kind not in ("epsilon", "v_prediction") or not hasattr(scheduler, "alphas_cumprod"):
        problem = f"{type(scheduler).__name__} with prediction_type {kind} does not give x0"
        raise ValueError(f"{problem}. Use LCMScheduler, DDIMScheduler or EulerDiscreteScheduler, for example.")
    if kind == "v_prediction":
        alpha = scheduler.alphas_cumprod[t].to(latents.dtype)
        return alpha.sqrt() * latents - (1 - alpha).sqrt() * prediction
    return x0_from_eps(scheduler.alphas_cumprod, latents, prediction, t)


def sample_trajectory(
    unet: UNet,
    scheduler: SchedulerMixin,
    x_T: Tensor,
    embeds: PromptEmbeds,
    num_inference_steps: int,
    negative_embeds: PromptEmbeds | None = None,
    guidance_scale: float = 1.0,
    generator: _Generators = None,
    grad_steps: Container[int] = (),
) -> Iterator[SamplerStep]:
    """Run a schedule and yield every step; the last one's `latents` are the sample.

    Raises a ValueError if guidance has no `negative_embeds`, or the scheduler does not give x0.

    Args:
        scheduler: a scheduler of diffusers that works with Stable Diffusion, or `TimestepShiftLCMScheduler`.
        x_T: noise of unit variance, (B, C, H, W). Its dtype is that of all latents.
        negative_embeds: embeddings of the empty prompt, for classifier-free guidance (Ho and Salimans 2022).
        guidance_scale: 1 or less disables guidance, as in diffusers' pipelines; more requires `negative_embeds`.
        generator: source of the noise that stochastic schedulers add, one for all images or one for each.
        grad_steps: steps, counted from 0, that gradients flow through if the caller has gradients enabled.
    """
    if guidance_scale > 1 and negative_embeds is None:
        raise ValueError(f"guidance_scale is {guidance_scale}, which requires negative_embeds. Pass them, or 1.0.")
    x_T = x_T.to(device_of(unet))
    scheduler.set_timesteps(num_inference_steps)  # on the CPU, so that no step waits for a GPU to read its timestep
    extra = {"generator": generator} if generator is not None else {}
    latents = x_T * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and index in grad_steps):
            inputs = scheduler.scale_model_input(latents, timestep)
            prediction = predict_noise(unet, inputs, timestep, embeds)
            if negative_embeds is not None and guidance_scale > 1:
                unconditional = predict_noise(unet, inputs, timestep, negative_embeds)
                prediction = unconditional + guidance_scale * (prediction - unconditional)
            stepped = scheduler.step(prediction, timestep, latents, **extra)
            x0 = _x0_of_step(stepped, scheduler, latents, prediction, timestep)
        latents = stepped.prev_sample
        yield SamplerStep(int(timestep), x0, latents)


def predict_x0(
    student: UNet,
    scheduler: SchedulerMixin,
    x_T: Tensor,
    embeds: PromptEmbeds,
    student_step: StudentStep = ONE_STEP,
    generator: _Generators = None,
    rollout_grad: bool = False,
) -> Tensor:
    """Return the student's k-th x0 (B, C, H, W) on a schedule, as at inference; by default one step from pure noise.

    Gradients flow through the k-th prediction only; with `rollout_grad`, through the re-noising into the one before.
    """
    steps, k = student_step.num_inference_steps, student_step.k
    grad_steps = range(max(k - 2 if rollout_grad else k - 1, 0), k)
    trajectory = sample_trajectory(student, scheduler, x_T, embeds, steps, generator=generator, grad_steps=grad_steps)
    return next(islice(trajectory, k - 1, None)).x0


def _any_step(max_steps: int, generator: Generator) -> StudentStep:
    """Any step of the longest schedule."""
    return StudentStep(max_steps, 1 + randint_below(max_steps, generator))


STEP_SAMPLERS: dict[str, Callable[[int, Generator], StudentStep]] = {
    "any_schedule": lambda n, generator: _any_step(1 + randint_below(n, generator), generator),
    "any_step": _any_step,
    "last_step": lambda n, generator: StudentStep(n, n),
}


def sample_student_step(max_steps: int, step_sampling: str, one_step_prob: float, generator: Generator) -> StudentStep:
    """Sample what one batch trains: `ONE_STEP` with probability `one_step_prob`, else by `STEP_SAMPLERS`."""
    if max_steps == 1 or torch.rand((), generator=generator, device=generator.device).item() < one_step_prob:
        return ONE_STEP
    return STEP_SAMPLERS[step_sampling](max_steps, generator)


def max_steps_at(step: int, stages: Sequence[int], stage_steps: int) -> int:
    """Return the longest schedule at a training step (from 0), for bottom-up refinement; the last stage has no end."""
    return stages[min(step // stage_steps, len(stages) - 1)]


def format_steps(n: int) -> str:
    """Return "1 step", "2 steps" and so on."""
    return f"{n} step{'s' if n != 1 else ''}"


def sample_latents(
    pipe: Pipeline,
    prompts: Sequence[str],
    x_T: Tensor,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    batch_size: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> Tensor:
    """Sample latents (N, C, H, W) for N prompts and their noise x_T with the pipeline, batch by batch.

    Stochastic schedulers draw their noise batch by batch from `seed`, so with them `batch_size` (by default
    `batch_size_at`) changes the result. `progress` is the label of a progress bar.
    """
    generator = Generator().manual_seed(integer("seed", seed))  # on the CPU: the same noise on every device
    batch_size = batch_size or batch_size_at(x_T.shape[-2] * x_T.shape[-1] * pipe.vae_scale_factor**2)
    pipe.set_progress_bar_config(disable=True)
    starts = tqdm(range(0, len(prompts), batch_size), desc=progress, disable=progress is None, leave=False)
    options = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "generator": generator}
    batches = []
    for rows in (slice(i, i + batch_size) for i in starts):
        noise = x_T[rows].to(pipe._execution_device, pipe.unet.dtype)
        batches.append(pipe(list(prompts[rows]), latents=noise, output_type="latent", **options).images)
    return torch.cat(batches)


def sample_image(
    pipe: Pipeline, prompt: str, seed: int, num_inference_steps: int, guidance_scale: float = 0.0
) -> tuple[Image.Image, list[str]]:
    """Sample one image; also return remarks on the prompt (words that the tokenizer does not know, for example)."""
    pipe.set_progress_bar_config(disable=True)
    generator = Generator().manual_seed(integer("seed", seed))
    options = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images = pipe(prompt, generator=generator, output_type="pt", **options).images
        tokens = len(pipe.tokenizer(prompt).input_ids)
    remarks = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    if images.isnan().any():
        remarks.append(
            f"The image has NaN values, which are shown black. If {pipe.unet.dtype} overflows, load the pipeline with "
            "dtype=torch.float32, or set force_upcast in the VAE's configuration."
        )
    limit = pipe.tokenizer.model_max_length
    if tokens > limit:
        remarks.append(f"The prompt has {tokens - 2} tokens; only the first {limit - 2} are used.")
    shown = pipe.image_processor.numpy_to_pil(pipe.image_processor.pt_to_numpy(images.nan_to_num(0.0)))
    return shown[0], list(dict.fromkeys(remarks))  # both tokenizers warn


def latent_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """Return the pipeline's default latent shape (C, H, W)."""
    return (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
