"""Where the time of a picture goes, and how many pictures come out a second."""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionXLPipeline
from torch import nn


@dataclass(frozen=True)
class CallTimes:
    """Seconds of a pipeline's call for one image: medians over repeats.

    text: both text encoders; unet: all passes of the UNet; vae: the decoder; rest: tokenizers, scheduler, conversion to
    a picture, Python. `fastest` and `slowest` are whole calls.
    """

    text: float
    unet: float
    vae: float
    rest: float
    fastest: float
    slowest: float

    @property
    def total(self) -> float:
        """Sum of the four parts."""
        return self.text + self.unet + self.vae + self.rest


def time_call(
    pipe: StableDiffusionXLPipeline, prompt: str, steps: int, guidance: float = 0.0, repeats: int = 5
) -> CallTimes:
    """Call a pipeline some times, after one call to warm up, and measure its parts while it runs.

    Args:
        guidance: the pipeline's `guidance_scale`; above 1, each pass of the UNet takes the prompt and the empty prompt.
    """
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    groups = [(pipe.text_encoder, pipe.text_encoder_2), (pipe.unet,), (pipe.vae.decoder,)]

    def draw() -> tuple[float, ...]:
        with clock(groups[0]) as text, clock(groups[1]) as unet, clock(groups[2]) as vae:
            start = now()
            pipe(prompt, num_inference_steps=steps, guidance_scale=guidance, generator=generator)
            whole = now() - start
        parts = (sum(text), sum(unet), sum(vae))
        return (*parts, whole - sum(parts), whole)

    draw()
    text, unet, vae, rest, whole = zip(*(draw() for _ in range(repeats)), strict=True)
    return CallTimes(
        text=statistics.median(text),
        unet=statistics.median(unet),
        vae=statistics.median(vae),
        rest=statistics.median(rest),
        fastest=min(whole),
        slowest=max(whole),
    )


@contextmanager
def clock(modules: Iterable[nn.Module]) -> Iterator[list[float]]:
    """Collect the seconds of every forward pass of these modules, as long as the block lasts."""
    starts: list[float] = []
    seconds: list[float] = []
    hooks = []
    for module in modules:
        hooks.append(module.register_forward_pre_hook(lambda *_: starts.append(now())))
        hooks.append(module.register_forward_hook(lambda *_: seconds.append(now() - starts.pop())))
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def now() -> float:
    """Seconds on a clock, once a GPU has done all that it was told to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def throughput(
    pipe: StableDiffusionXLPipeline, prompt: str, batch_sizes: Sequence[int], repeats: int, steps: int = 1
) -> dict[int, list[float]]:
    """Images a second of whole calls, without guidance: for each batch size as many values as `repeats`."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)

    def draw(batch_size: int) -> float:
        start = now()
        pipe([prompt] * batch_size, num_inference_steps=steps, guidance_scale=0, generator=generator, output_type="pt")
        return batch_size / (now() - start)

    speeds = {}
    for batch_size in batch_sizes:
        draw(batch_size)  # the first call of a size is slow: memory is allocated, kernels are chosen
        speeds[batch_size] = [draw(batch_size) for _ in range(repeats)]
    return speeds


def matmul_speed(device: torch.device, dtype: torch.dtype, repeats: int = 10) -> float:
    """Operations a second of a square matrix product: about the most that a network can get out of this machine."""
    side = 8192 if device.type == "cuda" else 1024  # a GPU would spend a small product's time on starting it
    matrix = torch.ones(side, side, device=device, dtype=dtype)

    def multiply() -> float:
        start = now()
        matrix @ matrix
        return now() - start

    multiply()
    return 2 * side**3 / statistics.median(multiply() for _ in range(repeats))
