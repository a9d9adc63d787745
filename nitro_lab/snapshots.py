"""Snapshots of a training: everything that it needs to go on where it was cut, saved at once, restored bit for bit."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

Part = nn.Module | torch.optim.Optimizer | torch.Generator | torch.Tensor


class Snapshot:
    """The state of named parts (modules, optimisers, generators, plain tensors) in one safetensors file.

    A file is written beside the old one and then renamed, so whenever a process dies, one whole snapshot is there.
    Hyper-parameters of optimisers are not saved: they belong to the recipe.

    Args:
        path: the file.
        settings: what made the parts; a file that was made under other settings is refused.
        parts: what to save and, on `load`, to overwrite in place.
    """

    def __init__(self, path: Path, settings: dict, **parts: Part):
        self.path = path
        self.settings = json.loads(json.dumps(settings))
        self.parts = parts

    def steps(self, total: int, every: int) -> Iterator[int]:
        """Count from the saved step to `total`, saving every so many steps and after the last."""
        for step in range(self.load(), total):
            yield step
            if (step + 1) % every == 0 or step + 1 == total:
                self.save(step + 1)

    def save(self, step: int) -> None:
        """Write all parts and the number of steps done."""
        tensors: dict[str, torch.Tensor] = {}
        for name, part in self.parts.items():
            tensors |= {f"{name}/{key}": value.detach().contiguous() for key, value in tensors_of(part).items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"step": str(step), "settings": json.dumps(self.settings)}
        replace_file(self.path, lambda file: save_file(tensors, file, metadata=metadata))

    def load(self) -> int:
        """Overwrite all parts from the file, if there is one. Returns the number of steps done.

        Raises:
            ValueError: if the file was made under other settings; the message names them.
        """
        if not self.path.exists():
            return 0
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            self.check_settings(json.loads(metadata["settings"]))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        for name, part in self.parts.items():
            prefix = f"{name}/"
            restore(part, {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        return int(metadata["step"])

    def check_settings(self, saved: dict) -> None:
        """Refuse a snapshot of another training."""
        differing = [key for key in saved.keys() | self.settings if saved.get(key) != self.settings.get(key)]
        if differing:
            rows = [f"{key}: saved {saved.get(key)!r}, now {self.settings.get(key)!r}" for key in sorted(differing)]
            raise ValueError(
                f"{self.path} was made under other settings ({'; '.join(rows)}). "
                "Use the same settings to go on, or another folder to start afresh."
            )


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside the old one and put it in its place, so that there is a whole one at all times."""
    unfinished = path.with_name(f"unfinished-{path.name}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)  # a full disk needs the room


def tensors_of(part: Part) -> dict[str, torch.Tensor]:
    """The state of one part as flat names and tensors."""
    if isinstance(part, torch.Generator):
        return {"state": part.get_state()}
    if isinstance(part, torch.Tensor):
        return {"value": part}
    if isinstance(part, torch.optim.Optimizer):
        state = part.state_dict()["state"]
        return {f"{index}/{field}": value for index, fields in state.items() for field, value in fields.items()}
    return part.state_dict()


def restore(part: Part, tensors: dict[str, torch.Tensor]) -> None:
    """The inverse of `tensors_of`, in place."""
    if isinstance(part, torch.Generator):
        part.set_state(tensors["state"])
    elif isinstance(part, torch.Tensor):
        part.copy_(tensors["value"])
    elif isinstance(part, torch.optim.Optimizer):
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            index, field = key.split("/")
            state.setdefault(int(index), {})[field] = value
        part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})
    else:
        part.load_state_dict(tensors)
