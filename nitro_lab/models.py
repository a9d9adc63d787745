"""Loading pipelines: the miniature, NitroSD, a folder or hub repository in diffusers' layout, or a training run."""

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import nn

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.weights import REPOSITORY, CheckpointError, fetch_file, fetch_folder, first_line, tensor_shapes

__all__ = ["MODELS", "SDXL", "ModelSource", "is_run", "load_pipeline", "load_unet", "read_run_config"]

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class ModelSource:
    """A base pipeline, and what a one-step student replaces in it.

    base: a folder or `owner/repo` in diffusers' layout.
    unet: the student's weights, a path or `owner/repo[@revision]/file.safetensors`; None keeps the base's UNet.
    shifted_timestep: the timestep that the student's UNet receives at t = 999; None keeps the base's scheduler.
    """

    base: str
    unet: str | None = None
    shifted_timestep: int | None = None


MODELS = {
    "mini": ModelSource(str(MODEL_FOLDER), str(MODEL_FOLDER / "student_unet.safetensors"), 250),
    "mini-teacher": ModelSource(str(MODEL_FOLDER)),
    "mini-regressed": ModelSource(str(MODEL_FOLDER), str(MODEL_FOLDER / "regressed_unet.safetensors"), 250),
    "nitrosd-realism": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-realism_unet.safetensors", 250),
    "nitrosd-vibrant": ModelSource(SDXL, "ChenDY/NitroFusion/nitrosd-vibrant_unet.safetensors", 500),
}

_MEMORY = {  # name -> method of the pipeline
    "model_offload": "enable_model_cpu_offload",
    "sequential_offload": "enable_sequential_cpu_offload",
    "attention_slicing": "enable_attention_slicing",
    "vae_slicing": "vae.enable_slicing",
    "vae_tiling": "vae.enable_tiling",
}
_LIBRARIES = re.compile(r"(diffusers|transformers|nitro_lab\.mini)(\.\w+)*|nitro_lab\.scheduler")


def load_pipeline(
    model: str | Path,
    *,
    unet: str | Path | None = None,
    shifted_timestep: int | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    memory: Sequence[str] = (),
) -> Pipeline:
    """Load a pipeline. The base's own UNet is not downloaded if a student's replaces it.

    Args:
        model: a key of `MODELS`, a folder or `owner/repo` in diffusers' layout, or the folder of a training run.
        unet: replaces the model's UNet: a path or `owner/repo[@revision]/file.safetensors`.
        shifted_timestep: replaces the model's shift; see `TimestepShiftLCMScheduler`.
        revision: branch, tag or commit of the base's repository.
        device: CUDA if available, else the CPU.
        dtype: float16 on CUDA, else float32. Files of half precision are preferred for float16, of full for others.
        memory: at most one of "model_offload" and "sequential_offload" (GPU only), and any of "attention_slicing",
            "vae_slicing" and "vae_tiling".

    Raises:
        ValueError: if an argument, or a combination of them, is not allowed.
        CheckpointError: if a file is missing, damaged, cannot be downloaded or does not fit. Nothing is loaded then.
    """
    source = _find_source(str(model))
    device = _usable_device(device)
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    _check_options(dtype, memory, device)
    shift = source.shifted_timestep if shifted_timestep is None else shifted_timestep
    if shift is not None:
        TimestepShiftLCMScheduler(shifted_timestep=shift)  # raises for a wrong value before anything is downloaded

    base = _Base(source.base, revision, prefer_half=dtype == torch.float16)
    student = source.unet if unet is None else unet
    unet_files = base.weight_files("unet") if student is None else [fetch_file(student)]
    pipe = base.assemble(load_unet(unet_files, base.read_json("unet/config.json"), dtype), dtype)
    if shift is not None:
        config = dict(pipe.scheduler.config)
        if not isinstance(pipe.scheduler, TimestepShiftLCMScheduler):
            config.pop("original_inference_steps", None)  # LCM's 50 is not the student's
        pipe.scheduler = TimestepShiftLCMScheduler.from_config(config, shifted_timestep=shift)
    for name in memory:
        attrgetter(_MEMORY[name])(pipe)(**({"device": device} if name.endswith("_offload") else {}))
    return pipe if any(name.endswith("_offload") for name in memory) else pipe.to(device)


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


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / "config.json").is_file() and "init_from" in read_run_config(folder)


def read_run_config(folder: Path) -> dict[str, Any]:
    """The settings in a run's config.json. Raises a ValueError if the file is missing or damaged."""
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}). Restore it, or choose another folder.") from error


class _Base:
    """A pipeline in diffusers' layout, in a folder or in the hub's cache. Only the weights asked for are downloaded."""

    def __init__(self, name: str, revision: str | None, prefer_half: bool):
        self.name = name
        self.remote = not Path(name).is_dir()
        if revision is not None and not self.remote:
            raise ValueError(f"revision is {revision!r}, but {name} is a folder, which has no revisions. Leave it out.")
        self.variants = (".fp16", "") if prefer_half else ("", ".fp16")
        self.offline = ""  # why files that are not in the cache could not be fetched
        self.folder = Path(name)
        if self.remote:
            self.folder = fetch_folder(name, revision, ["model_index.json"], f"{name} (there is no such folder here)")
        self.index = self.read_json("model_index.json")
        self.parts = [part for part, entry in self.index.items() if isinstance(entry, list) and entry != [None, None]]
        for part in self.parts:
            match self.index[part]:
                case [str(library), str()] if _LIBRARIES.fullmatch(library):
                    continue
            raise CheckpointError(  # importing an arbitrary module would run its code
                f"{self.folder / 'model_index.json'} gives {json.dumps(self.index[part])} as the class of {part}; it "
                'must be ["library", "class"] of diffusers, transformers, nitro_lab.mini or nitro_lab.scheduler.'
            )
        self._fetch([f"{part}/*.{ending}" for part in self.parts for ending in ("json", "txt")], name)

    def _fetch(self, patterns: list[str], what: str) -> None:
        """Download files of a remote base. If the hub cannot be reached, go on with those in the cache."""
        try:
            if self.remote:  # the folder's name is the commit: all parts come from the same one
                fetch_folder(self.name, self.folder.name, patterns, what)
        except CheckpointError as error:
            if not isinstance(error.__cause__, LocalEntryNotFoundError):
                raise
            self.offline = f" {error}"

    def read_json(self, file: str) -> dict[str, Any]:
        """Read one of the folder's JSON files."""
        try:
            return dict(json.loads((self.folder / file).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            problem = f"{self.folder / file} is missing or damaged ({first_line(error)})"
            raise CheckpointError(f"{problem}, so it is not a pipeline in diffusers' layout.{self.offline}") from error

    def weight_files(self, part: str) -> list[Path]:
        """The files that diffusers or transformers would load, of the preferred precision if there are any."""
        from_transformers = part in self.parts and self.index[part][0].startswith("transformers")
        stem = "model" if from_transformers else "diffusion_pytorch_model"
        for variant in self.variants:
            index = f"{part}/{stem}.safetensors.index{variant}.json"
            weight_map = self.read_json(index).get("weight_map", {}) if (self.folder / index).is_file() else {}
            shards = sorted(set(weight_map.values()))
            whole = [f"{stem}{variant}.safetensors"]
            for names in (whole, shards) if from_transformers else (shards, whole):  # the order of these libraries
                files = [self.folder / part / name for name in names]
                if not all(file.is_file() for file in files):
                    self._fetch([f"{part}/{name}" for name in names], f"{self.name}/{part}/{names[0]}")
                if files and files[0].is_file():
                    tensor_shapes(files)  # raises if a file is damaged
                    return files
        problem = f"{self.name} has no {part}/{stem}.safetensors, nor its variant fp16 or shards of it"
        raise CheckpointError(f"{problem}. Pickled files (.bin, .ckpt) are not loaded.{self.offline}")

    def load_part(self, part: str, dtype: torch.dtype) -> nn.Module:
        """Load a text encoder or the VAE by the class that the pipeline names; no weight may be missing."""
        files = self.weight_files(part)
        variant = "fp16" if ".fp16" in files[0].name else None
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        part_class = getattr(import_module(self.index[part][0]), self.index[part][1])
        loaded, report = part_class.from_pretrained(str(self.folder / part), variant=variant, **options)
        if report["missing_keys"]:  # the libraries would initialize them at random
            raise ValueError(f"{files[0]} lacks {sorted(report['missing_keys'])[:3]}")
        return loaded

    def assemble(self, unet: UNet2DConditionModel, dtype: torch.dtype) -> Pipeline:
        """Make the pipeline of this UNet and the base's other parts."""
        try:
            for part in self.parts:  # diffusers finds classes of other libraries only in imported modules
                import_module(self.index[part][0])
            names = [part for part in self.parts if part != "unet" and (self.folder / part / "config.json").is_file()]
            parts = {name: self.load_part(name, dtype) for name in names}
            return Pipeline.from_pretrained(self.folder, unet=unet, **parts)
        except (OSError, ValueError, TypeError, LookupError, ImportError, AttributeError, RuntimeError) as error:
            problem = f"The parts in {self.folder} do not make an SDXL pipeline ({first_line(error)})"
            raise CheckpointError(f"{problem}. Choose another folder, or fetch it again.{self.offline}") from error


def _find_source(model: str) -> ModelSource:
    """What a name, a folder or a repository stands for. A run's EMA student replaces the UNet that it started from."""
    folder = Path(model)
    if model in MODELS:
        return MODELS[model]
    if folder.is_dir() and not (folder / "model_index.json").exists() and is_run(folder):
        student, start = folder / "student.safetensors", Path(read_run_config(folder)["init_from"])
        if not student.exists():
            raise ValueError(f"{folder} has no student.safetensors yet; the run's first checkpoint writes it.")
        if start.is_absolute() and not start.exists():  # both folders may have been moved together
            start, before = folder.parent / start.name, start
            if not start.exists():
                raise ValueError(f"{folder} started from {before}, which is gone; put it there, or at {start}.")
        return replace(_find_source(str(start)), unet=str(student))
    if folder.is_dir() or REPOSITORY.fullmatch(model):
        return ModelSource(model)
    names = ", ".join(MODELS)
    raise ValueError(f"There is no model {model!r}. Give one of {names}, or a folder or owner/repo of diffusers.")


def _usable_device(device: str | torch.device | None) -> torch.device:
    """The device to load to; a ValueError if this machine does not have it."""
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device is {str(device)!r}, which is not available here ({first_line(error)}).") from error


def _check_options(dtype: torch.dtype, memory: Sequence[str], device: torch.device) -> None:
    """Raise a ValueError for a dtype or memory options that cannot be used."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype!r}; it must be a floating-point torch.dtype, such as torch.float16.")
    if not isinstance(memory, list | tuple) or any(name not in tuple(_MEMORY) for name in memory):
        raise ValueError(f"memory is {memory!r}; it must be a list of names out of {', '.join(_MEMORY)}.")
    offloads = [name for name in memory if name.endswith("_offload")]
    if len(offloads) > (device.type != "cpu"):
        raise ValueError(f"memory has {' and '.join(offloads)}; it may have one of them on a GPU, none on the CPU.")
