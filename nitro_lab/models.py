"""Loading pipelines: the miniature, NitroSD, a folder or hub repository in diffusers' layout, or a training run."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import nn

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.repository import Repository
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.weights import REPOSITORY, CheckpointError, fetch_file, first_line, tensor_shapes

__all__ = ["MODELS", "SDXL", "ModelSource", "find_source", "load_pipeline", "load_unet", "read_run_config"]

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class ModelSource:
    """A base pipeline, what replaces its parts, and how it is sampled as a teacher.

    base: a folder or `owner/repo` in diffusers' layout.
    unet: weights, a path or `owner/repo[@revision]/file.safetensors`; None keeps the base's UNet.
    shifted_timestep: the timestep that a student's UNet receives at t = 999; None keeps the base's scheduler.
    loras: added to the weights, one after another; files, named like `unet`.
    scheduler: a class of diffusers, and options that differ from the base's scheduler; None keeps it.
    sampling: num_inference_steps and guidance_scale of a sample that a student learns from.
    """

    base: str
    unet: str | None = None
    shifted_timestep: int | None = None
    loras: tuple[str, ...] = ()
    scheduler: tuple[str, Mapping[str, Any]] | None = None
    sampling: tuple[int, float] = (25, 5.0)


_STUDENT = 1, 0.0  # without guidance
_EULER = "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}
_DDIM = "DDIMScheduler", {"timestep_spacing": "trailing"}
_DMD2 = "LCMScheduler", {"original_inference_steps": 4}  # timesteps 999, 749, 499, 249, as in its training

MODELS = {  # schedulers, steps and guidance are those of the model cards
    "mini": ModelSource(str(MODEL_FOLDER), str(MODEL_FOLDER / "student_unet.safetensors"), 250, sampling=_STUDENT),
    "mini-teacher": ModelSource(str(MODEL_FOLDER), sampling=(12, 3.0)),
    "mini-regressed": ModelSource(
        str(MODEL_FOLDER), str(MODEL_FOLDER / "regressed_unet.safetensors"), 250, sampling=_STUDENT
    ),
    "nitrosd-realism": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-realism_unet.safetensors", 250, sampling=_STUDENT),
    "nitrosd-vibrant": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-vibrant_unet.safetensors", 500, sampling=_STUDENT),
    "sdxl": ModelSource(SDXL),
    "sdxl-turbo": ModelSource("stabilityai/sdxl-turbo", sampling=(4, 0.0)),
    "sdxl-lightning": ModelSource(
        SDXL, "ByteDance/SDXL-Lightning/sdxl_lightning_4step_unet.safetensors", None, (), _EULER, (4, 0.0)
    ),
    "dmd2": ModelSource(SDXL, "tianweiy/DMD2/dmd2_sdxl_4step_unet_fp16.safetensors", None, (), _DMD2, (4, 0.0)),
    "hyper-sdxl": ModelSource(
        SDXL, None, None, ("ByteDance/Hyper-SD/Hyper-SDXL-8steps-lora.safetensors",), _DDIM, (8, 0.0)
    ),
}

_MEMORY = {  # name -> method of the pipeline
    "model_offload": "enable_model_cpu_offload",
    "sequential_offload": "enable_sequential_cpu_offload",
    "attention_slicing": "enable_attention_slicing",
    "vae_slicing": "vae.enable_slicing",
    "vae_tiling": "vae.enable_tiling",
}


def load_pipeline(
    model: str | Path,
    *,
    unet: str | Path | None = None,
    lora: str | Path | None = None,
    shifted_timestep: int | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: Sequence[str] = (),
    share: Pipeline | None = None,
) -> Pipeline:
    """Load a pipeline. The base's own UNet is not downloaded if a student's replaces it.

    Args:
        model: a key of `MODELS`, a folder or `owner/repo` in diffusers' layout, or the folder of a training run.
        unet: replaces the model's UNet, with its LoRAs: a path or `owner/repo[@revision]/file.safetensors`.
        lora: added to the weights, a file named in the same way.
        shifted_timestep: replaces the model's shift; see `TimestepShiftLCMScheduler`.
        revision: branch, tag or commit of the base's repository.
        device: CUDA if available, else the CPU.
        dtype: float16 on CUDA, else float32. Files of half precision are preferred for float16 and bfloat16.
        memory: at most one of "model_offload" and "sequential_offload" (GPU only), and any of "attention_slicing",
            "vae_slicing" and "vae_tiling".
        share: a pipeline whose text encoders, tokenizers and VAE are used, wherever they are, in place of the model's.

    Raises:
        ValueError: if an argument, or a combination of them, is not allowed.
        CheckpointError: if a file is missing, damaged, cannot be downloaded or does not fit. Nothing is loaded then.
    """
    source = find_source(str(model))
    device = _usable_device(device)
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    _check_options(dtype, memory, device)
    shift = source.shifted_timestep if shifted_timestep is None else shifted_timestep
    if shift is not None:
        TimestepShiftLCMScheduler(shifted_timestep=shift)  # raises for a wrong value before anything is downloaded

    base = Repository(source.base, revision, prefer_half=dtype in (torch.float16, torch.bfloat16))
    replaced = source.unet if unet is None else unet
    loras = [fetch_file(file) for file in [*(source.loras if unet is None else ()), *([lora] if lora else [])]]
    unet_files = base.weight_files("unet") if replaced is None else [fetch_file(replaced)]
    tensor_shapes(loras)  # raises if a file is damaged
    pipe = base.assemble(load_unet(unet_files, base.read_json("unet/config.json"), dtype), dtype, share)
    if source.scheduler:
        name, options = source.scheduler
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **options)
    if shift is not None:
        config = dict(pipe.scheduler.config)
        if not isinstance(pipe.scheduler, TimestepShiftLCMScheduler):
            config.pop("original_inference_steps", None)  # LCM's 50 is not the student's
        pipe.scheduler = TimestepShiftLCMScheduler.from_config(config, shifted_timestep=shift)
    if not any(name.endswith("_offload") for name in memory):
        (pipe.unet if share else pipe).to(device)
    for file in loras:
        _fuse_lora(pipe, file, ["unet"] if share else ["unet", "text_encoder", "text_encoder_2"])
    for name in memory:
        attrgetter(_MEMORY[name])(pipe)(**({"device": device} if name.endswith("_offload") else {}))
    return pipe


def _fuse_lora(pipe: Pipeline, file: Path, components: list[str]) -> None:
    """Add a LoRA to the weights that it changes; a CheckpointError if it changes none, or does not fit."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns if a LoRA changes no text encoder
    try:
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        if not pipe.get_active_adapters():
            raise ValueError("it has no weights for this pipeline")
        pipe.fuse_lora(components=components)
        pipe.unload_lora_weights()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        problem = f"{file} is not a LoRA for {pipe.name_or_path} ({first_line(error)})"
        raise CheckpointError(f"{problem}. Choose one that diffusers loads; for a whole UNet, use unet=.") from error
    finally:
        logging.set_verbosity(verbosity)


def load_unet(
    file: str | Path | Sequence[Path], config: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """Load a UNet of this configuration from a safetensors file (or its shards), in evaluation mode.

    Raises a CheckpointError if the file is damaged, or its names, shapes or dtypes do not fit the configuration.

    Args:
        file: a path, `owner/repo[@revision]/file.safetensors`, or the paths of all shards.
        config: a UNet's configuration, for example `pipe.unet.config`.
        dtype: of the loaded weights, whatever the file's is.
    """
    files = [fetch_file(file)] if isinstance(file, str | Path) else list(file)
    tensor_shapes(files)  # raises if a file is damaged
    with torch.device("meta"):  # allocates no weights that the file replaces
        unet = UNet2DConditionModel.from_config(config)
    try:
        unet.load_state_dict({name: value for path in files for name, value in load_file(path).items()}, assign=True)
    except RuntimeError as error:  # names, shapes, or integers where weights should be
        problems = [textwrap.shorten(line, 200) for line in str(error).splitlines()[1:4]]
        advice = "It must hold a whole UNet of this architecture; load a LoRA with pipe.load_lora_weights."
        raise CheckpointError(f"{files[0]} does not fit the base's UNet: {' '.join(problems)} {advice}") from error
    return nn.Module.to(unet, dtype).eval()  # diffusers' own `to` warns of a list of modules that is empty


def read_run_config(folder: Path) -> dict[str, Any]:
    """The settings in a run's config.json. Raises a ValueError if the file is missing or damaged."""
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Restore it, or choose another folder.") from error


def find_source(model: str) -> ModelSource:
    """What a name, a folder or a repository stands for; of a run, what it started from with the EMA student.

    Raises a ValueError that lists the names if there is no such model.
    """
    folder = Path(model)
    if model in MODELS:
        return MODELS[model]
    is_run = (folder / "config.json").is_file() and not (folder / "model_index.json").exists()
    config = read_run_config(folder) if is_run else {}
    if "init_from" in config:
        student, lora, start = folder / "student.safetensors", folder / "student_lora.safetensors", config["init_from"]
        if not (student.exists() or lora.exists()):
            raise ValueError(f"{folder} has no {student.name} or {lora.name} yet; its first checkpoint writes it.")
        if Path(start).is_absolute() and not Path(start).exists():  # both folders may have been moved together
            start, before = str(folder.parent / Path(start).name), start
            if not Path(start).exists():
                raise ValueError(f"{folder} started from {before}, which is gone; put it there, or at {start}.")
        source = find_source(start)
        shift = config.get("shifted_timestep") or source.shifted_timestep
        source = replace(source, shifted_timestep=shift, sampling=_STUDENT)
        if lora.exists():
            return replace(source, loras=(*source.loras, str(lora)))
        return replace(source, unet=str(student), loras=())
    if folder.is_dir() or REPOSITORY.fullmatch(model):
        return ModelSource(model)
    advice = f"Give one of {', '.join(MODELS)}, or a folder or owner/repo in diffusers' layout."
    raise ValueError(f"There is no model {model!r}. {advice}")


def _usable_device(device: str | torch.device | None) -> torch.device:
    """The device to load to; a ValueError if this machine does not have it."""
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(wanted).startswith("mps"):
        raise ValueError(f"device is {str(device)!r}, which lacks the float64 that metrics need; use 'cpu'.")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device is {str(device)!r}, which is not available here ({first_line(error)}).") from error


def _check_options(dtype: torch.dtype, memory: Sequence[str], device: torch.device) -> None:
    """Raise a ValueError for a dtype or memory options that cannot be used."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; it must be a floating-point torch.dtype, such as torch.float16.")
    if (dtype, device.type) == (torch.bfloat16, "cuda") and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError("dtype is torch.bfloat16, which GPUs before Ampere do not have; use torch.float16.")
    if not isinstance(memory, list | tuple) or any(name not in tuple(_MEMORY) for name in memory):
        raise ValueError(f"memory is {memory!r}; it must be a list of names out of {', '.join(_MEMORY)}.")
    offloads = [name for name in memory if name.endswith("_offload")]
    if len(offloads) > (device.type != "cpu"):
        advice = "the CPU needs neither" if device.type == "cpu" else "use one of them"
        raise ValueError(f"memory has {' and '.join(offloads)}, but the device is {device.type}; {advice}.")
