"""Damaged files and those that do not fit: one error each, which names the file and the next step."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sdxl import make_repository, make_unet, write_student

from nitro_lab import load_pipeline, load_unet
from nitro_lab.loading.weight_files import CheckpointError


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL. Not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    make_repository(folder)
    return folder


def edit(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """A fault that changes the tensors of a file."""

    def fault(file: Path) -> None:
        weights = {name: value.clone() for name, value in load_file(file).items()}
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return fault


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda file: file.unlink(), "There is no file .*student.safetensors. Give a path, or owner/repo/"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "student.safetensors cannot be .* cut .* again"),
    "header": (lambda file: file.write_bytes(file.read_bytes()[:100]), "student.safetensors cannot be .* cut .* again"),
    "empty": (lambda file: file.write_bytes(b""), "student.safetensors cannot be read: it is cut .* again"),
    "pickled": (lambda file: torch.save({"a": torch.ones(1)}, file), "student.safetensors .* pickled .*save_file"),
    "pointer": (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "page": (lambda file: file.write_text("<!DOCTYPE html>" + " " * 50), "student.safetensors .* a web page"),
    "name": (
        edit(lambda weights: weights.pop("conv_in.bias")),
        r"does not fit .* 1 name is missing \(conv_in.bias\)\.",
    ),
    "surplus": (
        edit(lambda weights: weights.update(more=torch.ones(1))),
        r": 1 name is unknown to this UNet \(more\)\.",
    ),
    "some": (edit(lambda weights: [weights.pop(name) for name in sorted(weights)[:3]]), r"3 names are .*, [\w.]+\)\."),
    "many": (
        edit(lambda weights: [weights.pop(name) for name in sorted(weights)[:4]]),
        r"4 names are .*, [\w.]+ …\)\.",
    ),
    "shape": (
        edit(lambda weights: weights.update({"conv_in.bias": torch.ones(3)})),
        r"student.safetensors does not fit .* 1 shape differs \(conv_in.bias \(3,\) instead of \(8,\)\)\. Choose",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_the_student(sdxl: Path, tmp_path: Path, fault: str) -> None:
    cause, message = FAULTS[fault]
    file = tmp_path / "student.safetensors"
    write_student(file)
    cause(file)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(sdxl, device="cpu", unet=file)


def test_pickled_file_by_its_name(tmp_path: Path) -> None:
    torch.save(make_unet().state_dict(), tmp_path / "student.ckpt")
    with pytest.raises(CheckpointError, match=r"student.ckpt is not a safetensors file.*save_file"):
        load_unet(tmp_path / "student.ckpt", make_unet().config)


def index(**entries: object) -> Callable[[Path], None]:
    """A fault that changes entries of `model_index.json`."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | entries)) and None


BASE_FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no pipeline": ("model_index.json", lambda file: file.unlink(), r"no pipeline .*model_index.json is missing"),
    "no unet": ("unet/config.json", lambda file: file.unlink(), r"no pipeline .*unet.config.json is missing"),
    "cut": (
        "vae/diffusion_pytorch_model.safetensors",
        lambda file: file.write_bytes(file.read_bytes()[:-10]),
        r"vae.diffusion_pytorch_model.safetensors cannot be read: it is cut short",
    ),
    "name of the VAE": (
        "vae/diffusion_pytorch_model.safetensors",
        edit(lambda weights: weights.pop("encoder.conv_in.weight")),
        r"vae.diffusion_pytorch_model.safetensors lacks encoder.conv_in.weight\. Choose",
    ),
    "name of a text encoder": (
        "text_encoder_2/model.safetensors",
        edit(lambda weights: weights.pop("text_projection.weight")),
        r"text_encoder_2.model.safetensors lacks text_projection.weight",
    ),
    "shape": (
        "vae/diffusion_pytorch_model.safetensors",
        edit(lambda weights: weights.update({"encoder.conv_in.bias": torch.ones(3)})),
        r"do not make an SDXL pipeline: .*encoder.conv_in.bias expected shape",
    ),
    "class from elsewhere": (
        "model_index.json",
        index(vae=["antigravity", "fly"]),
        r'model_index.json gives \["antigravity", "fly"\] as the class of vae.*diffusers, transformers, nitro_lab.mini',
    ),
    "class that diffusers would load": (
        "model_index.json",
        index(tokenizer=["diffusers_tokenizers", "Fast"]),
        r'gives \["diffusers_tokenizers", "Fast"\] as the class of tokenizer',
    ),
    "one name": ("model_index.json", index(vae=["diffusers"]), r'gives \["diffusers"\] as the class of vae'),
    "a number": ("model_index.json", index(vae=5), "do not make an SDXL pipeline: TypeError"),
    "no such class": ("model_index.json", index(vae=["diffusers", "Auto"]), "do not make an SDXL pipeline: .*Auto"),
    "a list": ("model_index.json", lambda file: file.write_text("[1]"), "model_index.json is missing or damaged"),
}


@pytest.mark.parametrize("fault", BASE_FAULTS)
def test_faults_of_the_base(sdxl: Path, tmp_path: Path, fault: str) -> None:
    name, cause, message = BASE_FAULTS[fault]
    folder = copytree(sdxl, tmp_path / "base")
    cause(folder / name)
    with pytest.raises(CheckpointError, match=message):
        load_pipeline(folder, device="cpu")
    assert "antigravity" not in sys.modules
