"""Two training steps at SDXL's full size with random weights: what they change, how long and how much memory they take.

    python benchmarks/sdxl_step.py                                     # 12 GB of memory, a few minutes
    python benchmarks/sdxl_step.py --device cuda --latent-size 128     # 1024² pixels

The measured peak is compared with the prediction of `nitro_lab.memory`. On a CPU it is the growth of the process, which
needs another 0.5 GB for Python's libraries. docs/gpu.md quotes the results.
"""

import json
import math
import resource
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch import nn

from nitro_lab.checkpoint import weights_hash
from nitro_lab.memory import training_memory, uninitialized_state
from nitro_lab.randomness import seeded
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.state import TrainState
from nitro_lab.training.step import training_step

CONFIG = DistillConfig(
    teacher="sdxl",
    student="lora",
    mixed_precision="bf16",
    gradient_checkpointing=True,
    view_by_view=True,
    batch_size=1,
    disc_warmup_steps=0,
    student_update_freq=1,
)


def main(
    batch_size: int = 1,
    latent_size: int = 16,
    device: Literal["cpu", "cuda"] = "cpu",
    steps: int = 2,
    out: Path = Path("docs/sdxl_step.json"),
) -> None:
    """Train a LoRA of rank 64 on the attention, with the UNet in bfloat16.

    Args:
        latent_size: side of the latents; 128 for 1024² pixels.
        steps: the first makes the optimizer's moments, so the second needs the most memory.
    """
    config, before = replace(CONFIG, batch_size=batch_size), _peak(device)
    state = uninitialized_state(config, latent_size, nullcontext(), device)
    _initialize(state)
    frozen = nn.ParameterList(p for p in state.student.parameters() if not p.requires_grad)
    base, lora = weights_hash(frozen), _hashes(state.trained)
    reports = [training_step(state, step) for step in range(steps)]
    peak = _peak(device) - before
    predicted = training_memory(config, latent_size)
    finite = all(math.isfinite(x) for r in reports for x in (r.disc_loss, r.student_loss, r.grad_norm))
    changed = sum(a != b for a, b in zip(lora, _hashes(state.trained), strict=True))
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "latent_size": latent_size,
        "batch_size": batch_size,
        "frozen_parameters": sum(p.numel() for p in frozen),
        "trained_parameters": sum(p.numel() for p in state.trained),
        "disc_losses": [report.disc_loss for report in reports],
        "student_losses": [report.student_loss for report in reports],
        "losses_and_gradients_are_finite": finite,
        "frozen_bits_are_unchanged": weights_hash(frozen) == base,
        "changed_lora_tensors": f"{changed} of {len(lora)}",
        "seconds": [round(report.seconds, 2) for report in reports],
        "peak_gb": round(peak / 1e9, 3),
        "predicted_gb": round(sum(predicted.values()) / 1e9, 3),
        "predicted_by_use_gb": {use: round(size / 1e9, 3) for use, size in predicted.items()},
    }
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(out.read_text())


@torch.no_grad()
def _initialize(state: TrainState) -> None:
    """Weights as torch initializes them, the LoRA's second layers too; random embeddings and samples."""
    layers = [module for module in state.student.modules() if hasattr(module, "reset_parameters")]
    seeded(0, lambda: [layer.reset_parameters() for layer in layers])
    for average, parameter in zip(state.ema.module.parameters(), state.trained, strict=True):
        average.copy_(parameter)
    generator = torch.Generator().manual_seed(0)
    for x in (*vars(state.samples.embeds).values(), state.samples.x0, state.samples.x_T):
        x.normal_(generator=generator)
    for empty, x in zip(vars(state.empty_embeds).values(), vars(state.samples.embeds).values(), strict=True):
        empty.copy_(x[:1])


def _hashes(parameters: nn.ParameterList) -> list[str]:
    return [weights_hash(nn.ParameterList([parameter])) for parameter in parameters]


def _peak(device: str) -> int:
    """Bytes, on the GPU or of this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
