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
from safetensors.torch import save_file
from torch import Tensor, nn

from nitro_lab.weights import reading

__all__ = ["Checkpoint", "atomic_write", "hash_of", "pipeline_hashes", "weights_hash"]

_ABANDONED = 24 * 3600  # seconds after which a temporary file belongs to a process that died while writing it

_Part = nn.Module | torch.optim.Optimizer | torch.Generator | Tensor


class Checkpoint:
    """The state of named parts (modules, optimizers, generators, tensors) in one safetensors file.

    The file is replaced as a whole: whenever the process dies, a complete checkpoint is on disk. Hyperparameters of
    optimizers are not saved; they belong to the configuration.

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

    def save(self, step: int) -> None:
        """Write all parts and the number of steps done."""
        tensors: dict[str, Tensor] = {}
        for name, part in self.parts.items():
            tensors |= {f"{name}/{key}": value.detach().contiguous() for key, value in _state_of(part).items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"step": str(step), "settings": json.dumps(self.settings)}
        atomic_write(self.path, lambda file: save_file(tensors, file, metadata=metadata))

    def load(self) -> int:
        """Overwrite all parts from the file, if it exists, and return the number of steps done (0 without a file).

        Raises:
            ValueError: if the file was written with other settings; the message names them.
            CheckpointError: if it is damaged.
        """
        if not self.path.exists():
            return 0
        with reading(self.path), safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            self.check_settings(json.loads(metadata["settings"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        for name, part in self.parts.items():
            start = f"{name}/"
            _restore(part, {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)})
        return int(metadata["step"])

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
    Raises an OSError that names `path` if it cannot be written.
    """
    for other in path.parent.glob(f"unfinished-*-{escape(path.name)}"):
        with suppress(OSError):  # its writer may move it at this moment
            if time.time() - other.stat().st_mtime > _ABANDONED:
                other.unlink()
    temporary = path.with_name(f"unfinished-{uuid4().hex[:8]}-{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None)
        raise OSError(code or errno.EIO, reason or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # frees the disk after a failed write


def weights_hash(module: nn.Module) -> str:
    """A hash of the names and values of a module's state dict."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


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


def _restore(part: _Part, tensors: dict[str, Tensor]) -> None:
    """Overwrite one part in place with what `_state_of` returned."""
    if isinstance(part, torch.Generator):
        part.set_state(tensors["state"])
    elif isinstance(part, Tensor):
        part.copy_(tensors["value"])
    elif isinstance(part, torch.optim.Optimizer):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, field = key.split("/")
            state.setdefault(int(index), {})[field] = value
        part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
    else:
        part.load_state_dict(tensors)
