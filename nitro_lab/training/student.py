"""The student: a UNet of which all weights are trained, or a LoRA; and the running average of what is trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim.swa_utils import AveragedModel

from nitro_lab.checkpoint import atomic_write, whole
from nitro_lab.randomness import seeded
from nitro_lab.training.config import DistillConfig

__all__ = ["STUDENT_FILES", "averaged", "prepare_student", "save_student", "student_weights"]

STUDENT_FILES = {"full": "student.safetensors", "lora": "student_lora.safetensors"}


def prepare_student(unet: UNet2DConditionModel, config: DistillConfig) -> nn.ParameterList:
    """Make a UNet trainable, as a whole or with a new LoRA that changes nothing yet. Returns what is trained.

    A LoRA is float32, whatever the UNet is. Raises a ValueError if an entry of `lora_targets` names no layer.
    """
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train().requires_grad_(config.student == "full")
    if config.student == "lora":
        rank, targets = config.lora_rank, list(config.lora_targets)
        ends = {name.split(".", place)[-1] for name, _ in unet.named_modules() for place in range(name.count(".") + 1)}
        if unknown := [target for target in targets if target not in ends]:
            raise ValueError(f"lora_targets has {', '.join(unknown)}, but no layer's name in the UNet ends with it.")
        lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights="gaussian")
        seeded(config.seed, lambda: unet.add_adapter(lora))
        cast_training_params(unet, torch.float32)
    if config.shard:
        for module in (*unet.down_blocks, unet.mid_block, *unet.up_blocks, unet):
            fully_shard(module, reshard_after_forward=True)
    return nn.ParameterList(p for p in unet.parameters() if p.requires_grad)


@contextmanager
def averaged(trained: nn.ParameterList, ema: AveragedModel) -> Iterator[None]:
    """Within this context the student has its averaged weights, and the average has the student's."""
    _exchange(trained, ema)
    try:
        yield
    finally:
        _exchange(trained, ema)


@torch.no_grad()
def _exchange(trained: nn.ParameterList, ema: AveragedModel) -> None:
    for parameter, average in zip(trained, ema.module.parameters(), strict=True):
        kept = parameter.clone()
        parameter.copy_(average)
        average.copy_(kept)


def student_weights(unet: UNet2DConditionModel, config: DistillConfig) -> dict[str, Tensor]:
    """The UNet, or its LoRA with the names that both diffusers and ComfyUI know, in half precision on the CPU.

    All processes of a sharded student must call it.
    """
    weights = unet.state_dict()
    if config.student == "lora":
        lora = {f"unet.{name}": x for name, x in get_peft_model_state_dict(unet).items()}
        weights = convert_state_dict_to_kohya(lora)
    return {name: whole(x).to("cpu", torch.float16).contiguous() for name, x in weights.items()}


def save_student(weights: dict[str, Tensor], folder: Path, config: DistillConfig) -> None:
    """Write a student's weights to the folder of a run."""
    write = partial(save_file, weights, metadata={"format": "pt"})
    atomic_write(folder / STUDENT_FILES[config.student], write)
