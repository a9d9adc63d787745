"""Where models come from: the embedded miniature, a local folder, a run, or a hub; one way for all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab.loading.base_folder import Base
from nitro_lab.loading.run_config import is_run, read_config
from nitro_lab.loading.unet_file import load_unet
from nitro_lab.loading.weight_files import REPOSITORY, fetch_file
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.scheduler import TimestepShiftLCMScheduler

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class ModelSource:
    """A pipeline in diffusers' layout (folder or hub repository), and what a one-step student changes in it.

    unet: the student's weights, a path or `owner/repo[@revision]/file.safetensors`; None keeps the base's UNet.
    shifted_timestep: what the student was trained to be told at t = 999; None keeps the base's scheduler.
    """

    base: str
    unet: str | None = None
    shifted_timestep: int | None = None


MODELS = {
    "mini": ModelSource(str(MODEL_FOLDER), str(MODEL_FOLDER / "critics_unet.safetensors"), 250),
    "mini-teacher": ModelSource(str(MODEL_FOLDER)),
    "mini-regressed": ModelSource(str(MODEL_FOLDER), str(MODEL_FOLDER / "regressed_unet.safetensors"), 250),
    "nitrosd-realism": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-realism_unet.safetensors", 250),
    "nitrosd-vibrant": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-vibrant_unet.safetensors", 500),
}

OFFLOADS: dict[str, Callable[[StableDiffusionXLPipeline, torch.device], None]] = {
    "model_offload": lambda pipe, device: pipe.enable_model_cpu_offload(device=device),
    "sequential_offload": lambda pipe, device: pipe.enable_sequential_cpu_offload(device=device),
}
SAVINGS: dict[str, Callable[[StableDiffusionXLPipeline], None]] = {
    "attention_slicing": lambda pipe: pipe.enable_attention_slicing(),
    "vae_slicing": lambda pipe: pipe.vae.enable_slicing(),
    "vae_tiling": lambda pipe: pipe.vae.enable_tiling(),
}


def load_pipeline(
    model: str | Path,
    *,
    unet: str | Path | None = None,
    shifted_timestep: int | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: Sequence[str] = (),
) -> StableDiffusionXLPipeline:
    """Load a pipeline: the miniature or NitroSD by name, an SDXL folder or hub repository in diffusers' layout, a run.

    When a student's UNet takes its place, the base's own UNet is not downloaded; only its configuration is.

    Args:
        model: a key of `MODELS`, a folder, `owner/repo`, or a folder of `nitro-lab train`.
        unet: a student's weights in place of the model's, a path or `owner/repo[@revision]/file.safetensors`.
        shifted_timestep: the student's shift in place of the model's; see `TimestepShiftLCMScheduler`.
        revision: branch, tag or commit of the base's repository.
        device: CUDA if there is one, else the CPU.
        dtype: float16 on CUDA, else float32. Files of half precision are preferred for float16, of full for others.
        memory: names out of `OFFLOADS` (one at most) and `SAVINGS`.

    Raises:
        ValueError: if a name, or a combination of options, is not one of those allowed.
        CheckpointError: if a file is missing, damaged or does not fit, or cannot be downloaded. Nothing is loaded then.
    """
    source = find_source(str(model))
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    check_memory(memory, device)

    shift = source.shifted_timestep if shifted_timestep is None else shifted_timestep
    if shift is not None:
        TimestepShiftLCMScheduler(shifted_timestep=shift)  # refuses what cannot be, before anything is downloaded

    base = Base(source.base, revision, prefer_half=dtype == torch.float16)
    student = source.unet if unet is None else unet
    unet_files = base.weights("unet") if student is None else [fetch_file(student)]
    pipe = base.assemble(load_unet(unet_files, base.read("unet/config.json"), dtype), dtype)
    if shift is not None:
        pipe.scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=shift)
    return place(pipe, device, memory)


def find_source(model: str) -> ModelSource:
    """What a name stands for."""
    if model in MODELS:
        return MODELS[model]
    if is_run(Path(model)):
        return source_of_run(Path(model))
    if Path(model).is_dir() or REPOSITORY.fullmatch(model):
        return ModelSource(str(model))
    raise ValueError(
        f"There is no model {model!r}. Give one of {', '.join(MODELS)}, or a folder or owner/repo in diffusers' layout."
    )


def source_of_run(folder: Path) -> ModelSource:
    """A run's averaged student in the place of the one that it started from."""
    student = folder / "student.safetensors"
    if not student.exists():
        raise ValueError(f"{folder} has no student.safetensors yet: it comes with the run's first checkpoint.")
    return replace(find_source(read_config(folder)["student"]), unet=str(student))


def check_memory(memory: Sequence[str], device: torch.device) -> None:
    """Refuse memory options that do not exist or do not go together, before anything is downloaded."""
    unknown = [name for name in memory if name not in OFFLOADS | SAVINGS]
    offloads = [name for name in memory if name in OFFLOADS]
    if isinstance(memory, str) or unknown:
        raise ValueError(f"memory is {memory!r}; it takes a sequence out of {', '.join(OFFLOADS | SAVINGS)}.")
    if len(offloads) > 1:
        raise ValueError(
            f"memory has {' and '.join(offloads)}; choose one: sequential_offload saves more, and is slower."
        )
    if offloads and device.type == "cpu":
        raise ValueError(f"memory has {offloads[0]}, which needs a GPU to move parts to; on the CPU, leave it out.")


def place(pipe: StableDiffusionXLPipeline, device: torch.device, memory: Sequence[str]) -> StableDiffusionXLPipeline:
    """Move the pipeline to its device, or leave that to an offload, and switch the other savings on."""
    offloads = [name for name in memory if name in OFFLOADS]
    for name in offloads:
        OFFLOADS[name](pipe, device)
    for name in memory:
        if name in SAVINGS:
            SAVINGS[name](pipe)
    return pipe if offloads else pipe.to(device)
