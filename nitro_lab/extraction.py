"""A student as a LoRA of its base, and a student's difference to its base added to another model, tensor by tensor."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from nitro_lab.checkpoint import atomic_write
from nitro_lab.models import find_source
from nitro_lab.repository import Repository
from nitro_lab.weights import CheckpointError, fetch_file, reading, tensor_shapes

__all__ = ["extract_lora", "transfer"]

_Model = str | Path


def extract_lora(student: _Model, base: _Model, out: Path, rank: int = 64, kept_energy: float = 1.0) -> pd.DataFrame:
    """Write student − base as a LoRA of all linear and convolutional layers, the best one of its rank in each layer.

    The file has kohya's names and no alphas (scale 1), so both diffusers (`pipe.load_lora_weights`) and ComfyUI load
    it. Layers without a difference are left out. Factors are float16 where the student has 16 bits, else float32.

    Args:
        student, base: a name or folder as for `load_pipeline`, or a UNet's path or `owner/repo/file.safetensors`.
        out: the LoRA's file; its name should end in .safetensors.
        rank: of each layer, at most; the full rank of a layer is its smaller side.
        kept_energy: lowers the rank of layers where less keeps this fraction of the squared difference.

    Returns a row for each tensor: kind, rank (0 if it is not in the LoRA, as all biases and norms), and the Frobenius
    norms of the difference (student − base) and of the error (what the LoRA lacks of it).

    Raises:
        ValueError: if rank or kept_energy is out of range, no layer differs, or there is no such whole UNet.
        CheckpointError: if a file is missing, damaged or not finite, or if the UNets do not fit each other.
    """
    if rank < 1 or not 0 < kept_energy <= 1:
        raise ValueError(f"rank is {rank}, kept_energy {kept_energy}; rank must be at least 1, kept_energy in (0, 1].")
    student_unet, base_unet = _open(student, base)
    lora, rows = {}, {}
    for name, difference in _differences(student_unet, base_unet, tqdm(sorted(base_unet.files), desc="extract")):
        shape, error, columns = difference.shape, difference, 0
        if len(shape) > 1 and difference.any():
            dtype = torch.float16 if "16" in student_unet.dtypes[name] else torch.float32
            up, down = (x.to(dtype).contiguous() for x in _factorize(difference.flatten(1), rank, kept_energy))
            error, columns = difference.flatten(1) - up.float() @ down.float(), len(down)
            lora[f"{_kohya_name(name)}.lora_up.weight"] = up.reshape(-1, columns, *(1,) * (len(shape) - 2))
            lora[f"{_kohya_name(name)}.lora_down.weight"] = down.reshape(columns, *shape[1:])
        rows[name] = (_kind(name, len(shape)), columns, float(difference.norm()), float(error.norm()))
    if not lora:
        raise ValueError(f"The layers of {student} and {base} have the same weights, so there is nothing to extract.")
    atomic_write(out, partial(save_file, lora, metadata={"format": "pt"}))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["kind", "rank", "difference", "error"])


def transfer(student: _Model, base: _Model, other: _Model, out: Path) -> None:
    """Write other + (student − base) as a UNet's safetensors file, in the dtypes of `other`; models as `extract_lora`.

    Raises a CheckpointError as `extract_lora` does.
    """
    student_unet, base_unet, other_unet = _open(student, base, other)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype in other_unet.dtypes.items():
        start, end = end, end + other_unet.read(name).nbytes
        header[name] = {"dtype": dtype, "shape": other_unet.shapes[name], "data_offsets": (start, end)}

    def write(path: Path) -> None:  # one tensor at a time; `save_file` would need all in memory
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, difference in _differences(student_unet, base_unet, tqdm(other_unet.dtypes, desc="transfer")):
                weight = other_unet.read(name)
                file.write((weight.float() + difference).to(weight.dtype).view(torch.uint8).numpy().data)

    atomic_write(out, write)


class _Unet:
    """The tensors of a UNet's files, read one at a time: a file that stays open keeps in memory what was read of it."""

    def __init__(self, model: _Model):
        if str(model).endswith(".safetensors"):
            files = [fetch_file(model)]
        elif (source := find_source(str(model))).loras:
            raise ValueError(f"{model} is a LoRA, {source.loras[-1]}; give a model with a whole UNet instead.")
        elif source.unet:
            files = [fetch_file(source.unet)]
        else:
            files = Repository(source.base, None, prefer_half=True).weight_files("unet")
        self.shapes = tensor_shapes(files)
        self.files: dict[str, Path] = {}
        self.dtypes: dict[str, str] = {}
        for file in files:
            with reading(file), safe_open(file, "pt") as opened:
                self.files |= dict.fromkeys(opened.keys(), file)
                self.dtypes |= {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118

    def read(self, name: str) -> Tensor:
        with reading(self.files[name]), safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name)


def _open(*models: _Model) -> list[_Unet]:
    """Open UNets; a CheckpointError if their tensors differ in names or shapes."""
    unets = [_Unet(model) for model in models]
    for model, unet in zip(models, unets, strict=True):
        if wrong := sorted({name for name, _ in unet.shapes.items() ^ unets[0].shapes.items()}):
            first, other = (each.shapes.get(wrong[0], "no shape: it is missing") for each in (unets[0], unet))
            raise CheckpointError(
                f"{wrong[0]} has {first} in {models[0]}, and {other} in {model}, so they do not fit. Give whole "
                "UNets of one architecture in diffusers' layout; from_single_file of diffusers converts other layouts."
            )
    return unets


def _differences(student: _Unet, base: _Unet, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, student − base) in float32; a CheckpointError if a value is NaN or infinite."""
    for name in names:
        difference = student.read(name).float() - base.read(name).float()
        if not difference.isfinite().all():
            problem = f"{student.files[name]} or {base.files[name]} has NaN or infinite values in {name}"
            raise CheckpointError(f"{problem}. Fetch or train it again.")
        yield name, difference


def _factorize(matrix: Tensor, rank: int, kept_energy: float) -> tuple[Tensor, Tensor]:
    """Up (m, r) and down (r, n), whose product is the best approximation of a matrix (m, n) of that rank.

    The eigenvectors of the smaller Gram matrix are singular vectors, in a seventh of an SVD's time (1280 × 5120, one
    core). Its rounding errors matter little: the projection onto all of the vectors is exact.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    energies, vectors = torch.linalg.eigh(wide @ wide.T)  # ascending
    if kept_energy < 1:
        rank = min(rank, 1 + int((energies.flip(0).cumsum(0) < kept_energy * energies.sum()).sum()))
    left = vectors[:, -rank:].flip(1)
    right = left.T @ wide
    scale = right.norm(dim=1).clamp(min=1e-20).sqrt()  # √ of the singular values: both factors fit into float16
    up, down = left * scale, right / scale[:, None]
    return (up, down) if wide is matrix else (down.T, up.T)


def _kohya_name(name: str) -> str:
    """A layer's name in LoRA files. Two get the names of the original layout, since diffusers converts no others."""
    layer = name.removesuffix(".weight").replace("add_embedding.linear_1", "label_emb.0.0")
    return "lora_unet_" + layer.replace("add_embedding.linear_2", "label_emb.0.2").replace(".", "_")


def _kind(name: str, ndim: int) -> str:
    if ndim != 2:
        return "convolution" if ndim == 4 else "bias or norm"
    return "attention" if ".attn" in name else "feed-forward" if ".ff." in name else "other linear"
