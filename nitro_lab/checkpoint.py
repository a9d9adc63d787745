"""Checkpoints that resume a training bit for bit, files written as a whole, and hashes of weights and settings."""

import errno
import hashlib
import json
import operator
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from uuid import uuid4

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from nitro_lab.weights import CheckpointError, reading

__all__ = ["Checkpoint", "atomic_write", "hash_of", "pipeline_hashes", "read_or_make", "weights_hash", "whole"]

_ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a process that died while writing it

_Part = nn.Module | torch.optim.Optimizer | torch.Generator | Tensor


class Checkpoint:
    """The state of named parts (modules, optimizers, generators, tensors) in one safetensors file.

    The file is replaced as a whole: whenever the process dies, a complete checkpoint is on disk. It may be loaded on
    another device. Hyperparameters of optimizers are not saved; they belong to the configuration.

    Args:
        path: the file.
        settings: what the parts were made with, as JSON values. A file with other settings is refused.
        parts: what `save` writes and `load` overwrites in place.
    """

    def __init__(self, path: Path, settings: dict, **parts: _Part):
        self.path = path
        self.settings = json.loads(json.dumps(settings, default=operator.index))
        self.parts = parts

    def steps(self, total: int, every: int) -> Iterator[int]:
        """Load, then count from the saved step to `total`; saves after each `every` steps and after the last."""
        for step in range(self.load(), total):
            yield step
            if (step + 1) % every == 0 or step + 1 == total:
                self.save(step + 1)

    def save(self, step: int, write: bool = True) -> None:
        """Write all parts and the number of steps done. Of several processes only one may `write`."""
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            for key, value in _state_of(part).items():
                gathered = whole(value.detach())
                if write:
                    tensors[f"{name}/{key}"] = gathered.cpu().contiguous()  # one at a time on the GPU
        if not write:
            return
        metadata = {"step": str(step), "settings": json.dumps(self.settings)}
        atomic_write(self.path, lambda file: save_file(tensors, file, metadata=metadata))

    def load(self) -> int:
        """Overwrite all parts from the file, if it exists, and return the number of steps done (0 without a file).

        All of them are checked before the first is overwritten.

        Raises:
            ValueError: if the file was written with other settings; the message names them.
            CheckpointError: if it is damaged, or its tensors do not fit the parts.
        """
        if not self.path.exists():
            return 0
        with reading(self.path), safe_open(self.path, "pt") as file:
            metadata = file.metadata() or {}
            if not metadata.get("step", "").isdecimal() or "settings" not in metadata:
                raise CheckpointError(f"{self.path} is not a checkpoint. Restore it, or delete it to start again.")
            self.check_settings(json.loads(metadata["settings"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        saved: dict[str, dict[str, Tensor]] = {name: {} for name in self.parts}
        for key, value in tensors.items():
            saved.setdefault(key.partition("/")[0], {})[key.partition("/")[2]] = value
        for name, found in saved.items():
            self._check_shapes(name, {key: tuple(value.shape) for key, value in found.items()})
        for name, part in self.parts.items():
            _restore(part, saved[name])
        return int(metadata["step"])

    def _check_shapes(self, name: str, found: dict[str, tuple[int, ...]]) -> None:
        """Raise a CheckpointError that names the first tensor of a part that does not fit it."""
        wanted = _shapes_of(self.parts[name], found) if name in self.parts else {}
        for key in sorted(found.keys() | wanted):
            if found.get(key) != wanted.get(key):
                problem = f"{self.path} does not fit: {name}/{key} is {found.get(key)} there and {wanted.get(key)} here"
                hint = "A GPU's random states do not fit the CPU's. " if key == "state" else ""
                raise CheckpointError(f"{problem}. {hint}Nothing was loaded; start a new run in another folder.")

    def check_settings(self, saved: dict) -> None:
        """Raise a ValueError that names each setting in which a saved run differs from this one."""
        differing = [key for key in saved.keys() | self.settings if saved.get(key) != self.settings.get(key)]
        if differing:
            rows = [f"{key}: saved {saved.get(key)!r}, now {self.settings.get(key)!r}" for key in sorted(differing)]
            problem = f"{self.path} was written with other settings ({'; '.join(rows)})"
            raise ValueError(f"{problem}. Use the saved settings to resume, or another folder to start a new run.")


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then move that file to `path`.

    Readers see the old file or the new one, never a part. Several processes may write the same path; the last wins.
    Missing folders are made. Raises an OSError that names `path` if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.glob(f"unfinished-*-{escape(path.name)}"):
        with suppress(OSError):  # its writer may move it at this moment
            if time.time() - other.stat().st_mtime > _ABANDONED:
                other.unlink()
    temporary = path.with_name(f"unfinished-{uuid4().hex[:8]}-{path.name}")
    try:
        write(temporary)
        umask = os.umask(0o022)  # it can only be read by setting it
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner can read
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
        raise OSError(code or errno.EIO, reason or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # frees the disk after a failed write


def read_or_make(path: Path, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU; a file that is missing is made. A CheckpointError if it is damaged."""
    if not path.exists():
        tensors = {name: x.cpu().contiguous() for name, x in make().items()}
        atomic_write(path, lambda file: save_file(tensors, file))
    with reading(path):
        return load_file(path)


def weights_hash(module: nn.Module) -> str:
    """A hash of the names, dtypes, shapes and values in a module's state dict."""
    digest = hashlib.sha256()  # 2 GB/s; torch.hash_tensor is faster, but its XOR is the same for W and −W
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def pipeline_hashes(pipe: Pipeline) -> dict[str, str]:
    """What a pipeline's latents depend on: hashes of its text encoders and UNet, and the scheduler's configuration."""
    parts = {name: weights_hash(pipe.components[name]) for name in ("text_encoder", "text_encoder_2", "unet")}
    return parts | {"scheduler": f"{type(pipe.scheduler).__name__} {pipe.scheduler.to_json_string()}"}


def hash_of(settings: dict, prompts: Sequence[str]) -> str:
    """A hash of settings (JSON values, order matters) and prompts, for the name of a cached file."""
    text = json.dumps([settings, list(prompts)], default=operator.index)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _state_of(part: _Part) -> dict[str, Tensor]:
    """The state of one part as a flat dictionary of tensors."""
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    if isinstance(part, Tensor):
        return {"value": part}
    if isinstance(part, torch.optim.Optimizer):
        state = part.state_dict()["state"]
        return {f"{index}/{field}": value for index, fields in state.items() for field, value in fields.items()}
    return part.state_dict()


def _shapes_of(part: _Part, found: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes that a part's state must have; an optimizer may have saved any fields, each like its parameter."""
    if not isinstance(part, torch.optim.Optimizer):
        return {key: tuple(value.shape) for key, value in _state_of(part).items()}
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    shapes = {str(index): tuple(parameter.shape) for index, parameter in enumerate(parameters)}
    fields = [(key, key.partition("/")[0]) for key, shape in found.items()]
    return {key: shapes[index] if found[key] else () for key, index in fields if index in shapes}


def whole(x: Tensor) -> Tensor:
    """All of a tensor that is sharded over processes, in each of them; another tensor as it is."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def _sharded_like(own: Tensor, value: Tensor) -> Tensor:
    """This process's shard of a saved tensor, if its own is sharded."""
    return distribute_tensor(value, own.device_mesh, own.placements) if isinstance(own, DTensor) else value


def _restore(part: _Part, tensors: dict[str, Tensor]) -> None:
    """Overwrite one part in place with what `_state_of` returned."""
    if isinstance(part, torch.Generator):
        part.set_state(tensors["state"])
    elif isinstance(part, Tensor):
        part.copy_(tensors["value"])
    elif isinstance(part, torch.optim.Optimizer):
        state: dict[int, dict[str, Tensor]] = {}
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        for key, value in tensors.items():
            index, field = key.split("/")
            own = parameters[int(index)] if value.dim() else value  # AdamW's step count is a scalar
            state.setdefault(int(index), {})[field] = _sharded_like(own, value)
        part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
    else:
        own_state = part.state_dict()
        part.load_state_dict({name: _sharded_like(own_state[name], value) for name, value in tensors.items()})
