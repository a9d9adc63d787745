"""The smallest run of adversarial distillation on the embedded miniature, and the state that it leaves on disk."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nitro_lab.distill_config import DistillConfig

TINY = DistillConfig(
    reals=8,
    captions=8,
    teacher_steps=1,
    teacher_guidance=1.0,
    batch_size=4,
    slots=2,
    per_cell=1,
    width=8,
    refresh=0.01,
    warm_up=0,
    student_every=1,
    steps=4,
    save_every=2,
)
CHECKPOINT = "checkpoint.safetensors"


def saved_step(folder: Path) -> int:
    """Steps done when the checkpoint was written."""
    with safe_open(folder / CHECKPOINT, "pt") as file:
        return int(file.metadata()["step"])


def saved_state(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that the checkpoint holds."""
    return load_file(folder / CHECKPOINT)


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Names of what is not the same, bit for bit, in both."""
    return {
        name
        for name in first.keys() | second
        if name not in first or name not in second or not torch.equal(first[name], second[name])
    }
