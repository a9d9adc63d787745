"""What a training needs on a GPU, counted without one: its own training step runs on tensors that have no data."""

import json
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nitro_lab.backbones import FrozenUNetEncoder, SharedUNetEncoder
from nitro_lab.discriminators.level_heads import LevelHeads
from nitro_lab.integers import integer
from nitro_lab.models import find_source
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import TeacherSamples
from nitro_lab.training.parts import Parts
from nitro_lab.training.state import TrainState, assemble, frozen_dtype
from nitro_lab.training.step import training_step
from nitro_lab.training.student import prepare_student

__all__ = ["CUDA_CONTEXT", "SDXL_UNET", "cards_that_fit", "training_memory", "uninitialized_state"]

SDXL_UNET: Mapping[str, Any] = {  # unet/config.json of stabilityai/stable-diffusion-xl-base-1.0
    "sample_size": 128,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 768 + 1280,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 6 * 256 + 1280,
}
CUDA_CONTEXT = 1_000_000_000  # bytes: CUDA's own, its libraries' workspaces, and what the allocator cannot use again
_CARDS = (12, 16, 24, 48, 80)  # GiB


def training_memory(config: DistillConfig, latent_size: int | None = None) -> dict[str, int]:
    """Bytes on the GPU, by use, at the peak of a training step that updates heads and student.

    The UNet's shape is read from the teacher's folder; of models on the hub it is SDXL's. Text encoders and VAE do not
    count, and neither do further processes. For SDXL at 1024² it takes half a minute on a CPU.

    Args:
        latent_size: side of the latents, by default the UNet's; 128 for 1024² pixels.
    """
    if latent_size is not None:
        latent_size = integer("latent_size", latent_size, config.crop_size, 1024)
    if config.shard:
        raise ValueError("shard is set, but what one of several processes needs is not counted; leave it out.")
    changes: dict[str, Any] = {"disc_warmup_steps": 0, "student_update_freq": 1, "disc_update_freq": 1}
    changes |= {"stages": (max(config.stages),), "step_sampling": "last_step", "one_step_prob": 0.0}
    accumulation = min(config.gradient_accumulation_steps, 2)  # a third pass needs no more than the second
    config = replace(config, gradient_accumulation_steps=accumulation, **changes)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _without_data(fake):
        state = uninitialized_state(config, latent_size, fake)
        storages = _Storages()
        for parameter in state.trained:
            parameter.grad = torch.zeros_like(parameter)
            parameter.register_post_accumulate_grad_hook(lambda p: storages.count("gradients", p.grad))
        state.optimizer.step()  # makes its moments
        state.optimizer.zero_grad()
        storages.count("student, frozen", [p for p in state.student.parameters() if not p.requires_grad])
        storages.count("student, trained", list(state.trained))
        storages.count("AdamW's moments", [list(moments.values()) for moments in state.optimizer.state.values()])
        storages.count("average (EMA)", list(state.ema.parameters()))
        storages.count("backbone", list(state.backbone.buffers()))
        if not config.gradient_checkpointing:  # else it is on the CPU
            storages.count("teacher", list(state.pipe.unet.parameters()))
        storages.count("pool of heads and their moments", list(state.pool.buffers()))
        with storages:
            training_step(state, 0)
    return {use: size for use, size in storages.at_peak.items() if size}


def cards_that_fit(peak: int) -> list[int]:
    """Sizes in GiB, of the usual ones, of cards that hold so many bytes and `CUDA_CONTEXT`."""
    return [card for card in _CARDS if peak + CUDA_CONTEXT <= card * 2**30]


class _Storages(TorchDispatchMode):
    """Counts the bytes of storages without data that are alive, by use, and keeps the counts of their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[str, int]] = {}
        self.now: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()

    def count(self, use: str, tensors: Any) -> None:
        """Count storages for a use; those that were counted as activations change it."""
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, FakeTensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self.alive:
                weakref.finalize(storage, self._free, key)
            elif self.alive[key][0] == "activations":
                self._free(key)
            else:
                continue
            self.alive[key] = (use, size)
            self.now[use] += size
        if self.now.total() > self.at_peak.total():
            self.at_peak = self.now.copy()

    def _free(self, key: int) -> None:
        use, size = self.alive.pop(key)
        self.now[use] -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count("activations", result)
        return result


@contextmanager
def _without_data(fake: FakeTensorMode) -> Iterator[None]:
    """No initial values of heads, and 1 for what the host reads; norms in float32 within autocast, as on CUDA only."""

    def initialize(heads: LevelHeads, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with fake:
            return torch.empty(count, heads.size), torch.empty(count, heads.constant_size)

    def in_float32(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return norm(x, shape, weight, bias, eps)
            return norm(x.float(), shape, *(p if p is None else p.float() for p in (weight, bias)), eps)

        return run

    with (
        patch.object(LevelHeads, "initialize", initialize),
        patch.object(FakeTensor, "tolist", lambda x: [1.0] * len(x)),
        patch.object(F, "layer_norm", in_float32(F.layer_norm)),
        patch.object(F, "group_norm", in_float32(F.group_norm)),
    ):
        yield


def uninitialized_state(
    config: DistillConfig, latent_size: int | None, allocation: AbstractContextManager[Any], device: str = "cpu"
) -> TrainState:
    """What `prepare_training` makes, without loading anything: all weights but the heads' are uninitialized.

    Args:
        latent_size: side of the latents, by default the UNet's.
        allocation: context in which weights are allocated, such as a `FakeTensorMode`.
    """
    dtype, is_lora, rows = frozen_dtype(config), config.student == "lora", config.batch_size
    file = Path(find_source(config.teacher).base) / "unet" / "config.json"
    unet = json.loads(file.read_text()) if file.exists() else SDXL_UNET
    with torch.device("meta"):  # where more functions work than on tensors without data
        student = UNet2DConditionModel.from_config(unet)
    nn.Module.to(student, dtype if is_lora else torch.float32)  # diffusers' own would warn
    teacher, unet = student if is_lora else deepcopy(student), student.config
    ema = AveragedModel(prepare_student(student, config), multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    backbone = SharedUNetEncoder(student) if is_lora else FrozenUNetEncoder(student).to(dtype)
    pooled_width = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
    size = latent_size or unet.sample_size
    with allocation:
        for module in {student, teacher, backbone, ema}:
            module.to_empty(device=device)
        widths = (77, unet.cross_attention_dim), (pooled_width,), (6,)
        embeds = PromptEmbeds(*(torch.empty(rows, *width, dtype=student.dtype) for width in widths))
        x0, x_T = torch.empty(2, rows, unet.in_channels, size, size)
    ema.n_averaged = torch.tensor(1)  # the host reads it
    samples = TeacherSamples([""] * rows, embeds, embeds[:1], x0, x_T)
    trained = nn.ParameterList(p for p in student.parameters() if p.requires_grad)
    accelerator: Any = SimpleNamespace(device=torch.device(device), num_processes=1, process_index=0)
    accelerator.autocast = lambda: torch.autocast(device, dtype, enabled=config.mixed_precision != "no")
    pipe: Any = SimpleNamespace(unet=teacher)
    networks = pipe, TimestepShiftLCMScheduler(shifted_timestep=250), backbone, student, trained, ema
    return assemble(config, Parts(), accelerator, samples, *networks, checkpoint=(Path(), {}))
