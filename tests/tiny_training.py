"""The smallest training on the shipped miniature, and what it leaves on disk."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nitro_lab.discriminators.losses import GANBatch
from nitro_lab.discriminators.pool import Panel
from nitro_lab.sampling import ONE_STEP, StudentStep
from nitro_lab.training.batch import sample_fakes
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.state import TrainState
from nitro_lab.training.step import score_batch

TINY = DistillConfig(
    num_real_samples=8,
    num_prompts=8,
    teacher_num_inference_steps=1,
    teacher_guidance_scale=1.0,
    batch_size=4,
    heads_per_cell=2,
    sampled_heads_per_cell=1,
    head_width=8,
    refresh_rate=0.01,
    disc_warmup_steps=0,
    student_update_freq=1,
    max_train_steps=4,
    checkpointing_steps=2,
)
CHECKPOINT = "checkpoint.safetensors"


def tiny(**settings) -> DistillConfig:
    """`TINY` with other settings."""
    return replace(TINY, **settings)


def score_new_batch(
    state: TrainState, panel: Panel, student_step: StudentStep = ONE_STEP, update_student: bool = False
) -> tuple[GANBatch, list[torch.Tensor] | None]:
    """What `score_batch` gives for a new batch, of all views."""
    return score_batch(state, panel, sample_fakes(state, panel.noise_level, student_step, update_student))


def as_options(settings: dict) -> list[str]:
    """The settings as words of a command line."""
    words = []
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no{option[1:]}")
        elif value not in ((), ""):
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def saved_step(folder: Path) -> int:
    """Steps done when the checkpoint was written."""
    return int(safe_open(folder / CHECKPOINT, "pt").metadata()["step"])


def saved_state(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the checkpoint."""
    return load_file(folder / CHECKPOINT)


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    """Names of tensors that are not equal, bit for bit, in both."""
    common = first.keys() & second
    return (first.keys() ^ second) | {name for name in common if not torch.equal(first[name], second[name])}
