"""How long the parts of a pipeline's call take, and how many images per second come out."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from diffusers import StableDiffusionXLPipeline
from torch.utils.benchmark import Timer

__all__ = ["CallTimes", "matmul_speed", "throughput", "time_call"]


@dataclass(frozen=True)
class CallTimes:
    """Seconds of a pipeline's call for one image: medians of its parts, and the fastest and slowest whole call."""

    text: float  # both text encoders
    unet: float  # all passes
    vae: float  # the decoder
    rest: float  # everything else
    fastest: float
    slowest: float

    @property
    def total(self) -> float:
        """Sum of the four parts."""
        return self.text + self.unet + self.vae + self.rest


def time_call(
    pipe: StableDiffusionXLPipeline, prompt: str, num_inference_steps: int, guidance_scale: float = 0, repeats: int = 5
) -> CallTimes:
    """Time the parts of a pipeline's call for one image, after one call to warm up."""
    pipe.set_progress_bar_config(disable=True)
    names = {pipe.text_encoder: "text", pipe.text_encoder_2: "text", pipe.unet: "unet", pipe.vae.decoder: "vae"}
    seconds: Counter = Counter()
    hooks = [m.register_forward_pre_hook(lambda m, _: seconds.subtract({names[m]: _now()})) for m in names]
    hooks += [m.register_forward_hook(lambda m, *_: seconds.update({names[m]: _now()})) for m in names]
    calls = []
    try:
        for _ in range(1 + repeats):
            seconds.clear()
            start = _now()
            pipe(prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
            elapsed = _now() - start
            calls.append((seconds["text"], seconds["unet"], seconds["vae"], elapsed - seconds.total(), elapsed))
    finally:
        for hook in hooks:
            hook.remove()
    text, unet, vae, rest, whole = zip(*calls[1:], strict=True)
    return CallTimes(median(text), median(unet), median(vae), median(rest), min(whole), max(whole))


def throughput(
    pipe: StableDiffusionXLPipeline, prompt: str, batch_sizes: Sequence[int], repeats: int
) -> dict[int, list[float]]:
    """Images per second of one-step calls without guidance: `repeats` values for each batch size."""
    pipe.set_progress_bar_config(disable=True)
    speeds: dict[int, list[float]] = {size: [] for size in batch_sizes}
    for size in batch_sizes:
        for _ in range(1 + repeats):
            start = _now()
            pipe([prompt] * size, num_inference_steps=1, guidance_scale=0, output_type="pt")
            speeds[size].append(size / (_now() - start))
    return {size: row[1:] for size, row in speeds.items()}  # a size's first call allocates memory, chooses kernels


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a square matrix product: about the most that a network can reach."""
    side = 8192 if device.type == "cuda" else 1024  # a GPU needs a large product to be busy
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * side**3 / timer.blocked_autorange(min_run_time=0.3).median


def _now() -> float:
    """Seconds on a clock, after a GPU has finished its queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
