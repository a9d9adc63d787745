"""A UNet from a file of weights and a configuration: exactly, or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from nitro_lab.loading.weight_files import CheckpointError, fetch_file, shapes_of

NAMES_SHOWN = 3  # of a file that does not fit


def load_unet(
    file: str | Path | Sequence[Path], config: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> UNet2DConditionModel:
    """A UNet of this configuration with the weights of a safetensors file (or of shards), in evaluation mode.

    Args:
        file: a path, `owner/repo[@revision]/file.safetensors`, or the paths of shards.
        config: a UNet's configuration, for example `pipe.unet.config`.
        dtype: of the loaded weights, whatever the file's is.

    Raises:
        CheckpointError: if the file is damaged, or if its names and shapes are not exactly the configuration's.
    """
    files = [fetch_file(file)] if isinstance(file, str | Path) else list(file)
    with torch.device("meta"):  # no memory is spent on weights that the file replaces
        unet = UNet2DConditionModel.from_config(config)
    check_fit(files, {name: tuple(value.shape) for name, value in unet.state_dict().items()})
    weights = {name: value.to(dtype) for path in files for name, value in load_file(path).items()}
    unet.load_state_dict(weights, assign=True)
    return unet.eval()


def check_fit(files: list[Path], wanted: dict[str, tuple[int, ...]]) -> None:
    """Compare what a UNet needs with what its files hold, before anything is loaded."""
    found = shapes_of(files)
    troubles = {
        ("name is missing", "names are missing"): sorted(wanted.keys() - found.keys()),
        ("name is unknown to this UNet", "names are unknown to this UNet"): sorted(found.keys() - wanted.keys()),
        ("shape differs", "shapes differ"): [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in wanted.items()
            if found.get(name, shape) != shape
        ],
    }
    words = [f"{len(x)} {one if len(x) == 1 else more} ({some(x)})" for (one, more), x in troubles.items() if x]
    if words:
        raise CheckpointError(
            f"{', '.join(map(str, files))} does not fit the base's UNet: {'; '.join(words)}. Choose the base that the "
            "file was trained on. It must hold a whole UNet as unet.save_pretrained writes it; a LoRA goes through "
            "pipe.load_lora_weights, a file of the original layout through StableDiffusionXLPipeline.from_single_file."
        )


def some(names: Sequence[str]) -> str:
    """The first names, and a sign if there are more."""
    return ", ".join(names[:NAMES_SHOWN]) + (" …" if len(names) > NAMES_SHOWN else "")
