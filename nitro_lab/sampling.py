"""Sampling in latents: many samples through diffusers' own pipeline, or one schedule watched step by step."""

import warnings
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from diffusers import SchedulerMixin, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from tqdm.auto import tqdm

from nitro_lab.stages import ONE_STEP, Turn


@dataclass(frozen=True)
class Conditioning:
    """What SDXL's UNet is told beside the latent and the time, for B prompts.

    tokens: (B, L, D), both text encoders' penultimate layers, joined; pooled: (B, P), the second encoder's summary;
    sizes: (B, 6), original size, crop corner and target size in pixels.
    """

    tokens: torch.Tensor
    pooled: torch.Tensor
    sizes: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> "Conditioning":
        return Conditioning(self.tokens[rows], self.pooled[rows], self.sizes[rows])


@dataclass(frozen=True)
class Step:
    """One step of a schedule: what the UNet was told (t'), what was made of it (x0), and the next latent."""

    told: int
    x0: torch.Tensor
    latents: torch.Tensor


def encode_prompts(pipe: StableDiffusionXLPipeline, prompts: Sequence[str]) -> Conditioning:
    """Ask the pipeline's text encoders. Gradients flow, unless the caller forbids them."""
    device = pipe.unet.device
    tokens, _, pooled, _ = pipe.encode_prompt(list(prompts), device=device, do_classifier_free_guidance=False)
    side = pipe.default_sample_size * pipe.vae_scale_factor
    sizes = torch.tensor([[side, side, 0, 0, side, side]], device=device, dtype=tokens.dtype)
    return Conditioning(tokens, pooled, sizes.expand(len(prompts), -1))


def predict_noise(
    unet: UNet2DConditionModel, latents: torch.Tensor, told: torch.Tensor | int, conditioning: Conditioning
) -> torch.Tensor:
    """ε of latents (B, C, H, W), when the UNet is told the time `told`, one for all or (B,)."""
    added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.sizes}
    return unet(latents, told, encoder_hidden_states=conditioning.tokens, added_cond_kwargs=added).sample


def x0_from_noise(
    alphas_cumprod: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, told: torch.Tensor | int
) -> torch.Tensor:
    """x0 = (x − √(1−ᾱ')·ε) / √ᾱ', with ᾱ' at the told time. Latents and noise (B, C, H, W)."""
    alpha = alphas_cumprod.to(latents.device)[told].to(latents.dtype).reshape(-1, 1, 1, 1)
    return (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def walk(
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    conditioning: Conditioning,
    steps: int,
    empty: Conditioning | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
    graph: Container[int] = (),
) -> Iterator[Step]:
    """Run a schedule and yield every step; the last one's `latents` are the sample.

    Args:
        scheduler: any variance-preserving scheduler of diffusers (LCM, DDIM, DPM-Solver, ours).
        noise: x_T, (B, C, H, W), of unit variance.
        empty: conditioning of the empty prompt, for classifier-free guidance (Ho and Salimans 2022).
        guidance: 1 or less is none, as in diffusers' pipelines; more needs `empty`.
        generator: source of the noise that stochastic schedulers add, one for all images or one for each.
        graph: steps, counted from 0, through which gradients may flow where the caller allows them at all.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    extra = {"generator": generator} if generator is not None else {}
    latents = noise * scheduler.init_noise_sigma
    for index, told in enumerate(scheduler.timesteps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and index in graph):
            inputs = scheduler.scale_model_input(latents, told)
            eps = predict_noise(unet, inputs, told, conditioning)
            if empty is not None and guidance > 1:
                blank = predict_noise(unet, inputs, told, empty)
                eps = blank + guidance * (eps - blank)
            x0 = x0_from_noise(scheduler.alphas_cumprod, latents, eps, told)
            stepped = scheduler.step(eps, told, latents, **extra)
        latents = stepped.prev_sample
        yield Step(int(told), getattr(stepped, "denoised", x0), latents)


@torch.no_grad()
def watch(
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    noise: torch.Tensor,
    conditioning: Conditioning,
    steps: int,
    empty: Conditioning | None = None,
    guidance: float = 1.0,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Iterator[Step]:
    """As `walk`, without gradients."""
    yield from walk(unet, scheduler, noise, conditioning, steps, empty, guidance, generator)


def predict_x0(
    student: UNet2DConditionModel,
    scheduler: SchedulerMixin,
    x_T: torch.Tensor,
    conditioning: Conditioning,
    turn: Turn = ONE_STEP,
    generator: torch.Generator | list[torch.Generator] | None = None,
    through_noising: bool = False,
) -> torch.Tensor:
    """The student's k-th image x0 (B, C, H, W) on a schedule, as inference makes it; one step of pure noise by default.

    Gradients flow through the k-th prediction only, and, where they are asked to, through the last re-noising into the
    prediction before it.
    """
    first = turn.k - 2 if through_noising else turn.k - 1
    steps = walk(
        student, scheduler, x_T, conditioning, turn.steps, generator=generator, graph=range(max(first, 0), turn.k)
    )
    return next(islice(steps, turn.k - 1, None)).x0


def generate(
    pipe: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    noise: torch.Tensor,
    steps: int,
    guidance: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    title: str | None = None,
) -> torch.Tensor:
    """Latents of many prompts by the pipeline itself, batch after batch.

    Args:
        noise: x_T, (N, C, H, W), one for each prompt.
        guidance: the pipeline's `guidance_scale`; 1 or less is none.
        batch_size: how many at once. Stochastic schedulers draw their noise batch by batch from one generator, so
            with them the result depends on it; with the others it does not.
        seed: of the noise that stochastic schedulers add between steps.
        title: what the progress bar says; no bar if it is None.

    Returns:
        (N, C, H, W) latents, on the pipeline's device.
    """
    generator = torch.Generator(pipe.unet.device).manual_seed(seed)
    pipe.set_progress_bar_config(disable=True)
    starts = tqdm(range(0, len(prompts), batch_size), desc=title, disable=title is None, leave=False)
    batches = [
        pipe(
            prompt=list(prompts[i : i + batch_size]),
            latents=noise[i : i + batch_size].to(pipe.unet.device, pipe.unet.dtype),
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generator,
            output_type="latent",
        ).images
        for i in starts
    ]
    return torch.cat(batches)


def latent_shape(pipe: StableDiffusionXLPipeline) -> tuple[int, int, int]:
    """(C, H, W) of the latents that a pipeline makes by default."""
    return (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)


def imagine(
    pipe: StableDiffusionXLPipeline, prompt: str, seed: int, steps: int, guidance: float = 0.0
) -> tuple[Image.Image, list[str]]:
    """One picture, and what there is to say about its prompt (words that the model does not know, say)."""
    pipe.set_progress_bar_config(disable=True)
    # A generator on the CPU gives the same noise, and so the same picture, with and without a GPU.
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        picture = pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator).images[0]
        tokens = len(pipe.tokenizer(prompt).input_ids)
    remarks = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
    room = pipe.tokenizer.model_max_length
    if tokens > room:
        remarks.append(f"The prompt has {tokens - 2} words or pieces of words; only the first {room - 2} are read.")
    return picture, list(dict.fromkeys(remarks))  # both tokenizers warn: say it once


@torch.no_grad()
def decode(pipe: StableDiffusionXLPipeline, latents: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Latents (N, C, H, W) to images (N, 3, h, w) in [-1, 1]."""
    scaled = latents / pipe.vae.config.scaling_factor
    return torch.cat([pipe.vae.decode(batch).sample for batch in scaled.split(batch_size)]).clamp(-1, 1)


@torch.no_grad()
def encode(pipe: StableDiffusionXLPipeline, images: torch.Tensor, batch_size: int = 64) -> torch.Tensor:
    """Images (N, 3, h, w) in [-1, 1] to latents (N, C, H, W), without the posterior's noise."""
    latents = torch.cat([pipe.vae.encode(batch).latent_dist.mode() for batch in images.split(batch_size)])
    return latents * pipe.vae.config.scaling_factor
