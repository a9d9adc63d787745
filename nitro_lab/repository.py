"""A pipeline in diffusers' layout, in a folder or in the hub's cache."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from diffusers import UNet2DConditionModel
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from nitro_lab.weights import CheckpointError, fetch_folder, first_line, tensor_shapes

__all__ = ["Repository"]

_LIBRARIES = re.compile(r"(diffusers|transformers|nitro_lab\.mini)(\.\w+)*|nitro_lab\.scheduler")


class Repository:
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

    def _load_part(self, part: str, dtype: torch.dtype) -> nn.Module:
        """Load a text encoder or the VAE by the class that the pipeline names; no weight may be missing."""
        files = self.weight_files(part)
        variant = "fp16" if ".fp16" in files[0].name else None
        options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        part_class = getattr(import_module(self.index[part][0]), self.index[part][1])
        loaded, report = part_class.from_pretrained(str(self.folder / part), variant=variant, **options)
        if report["missing_keys"]:  # the libraries would initialize them at random
            raise ValueError(f"{files[0]} lacks {sorted(report['missing_keys'])[:3]}")
        return loaded

    def assemble(self, unet: UNet2DConditionModel, dtype: torch.dtype, share: Pipeline | None = None) -> Pipeline:
        """Make the pipeline of this UNet and the repository's other parts, or those of another pipeline."""
        try:
            for part in self.parts:  # diffusers finds classes of other libraries only in imported modules
                import_module(self.index[part][0])
            names = [part for part in self.parts if part != "unet" and (self.folder / part / "config.json").is_file()]
            if share:
                parts = {name: part for name, part in share.components.items() if name not in ("unet", "scheduler")}
            else:
                parts = {name: self._load_part(name, dtype) for name in names}
            return Pipeline.from_pretrained(self.folder, unet=unet, **parts)
        except (OSError, ValueError, TypeError, LookupError, ImportError, AttributeError, RuntimeError) as error:
            problem = f"The parts in {self.folder} do not make an SDXL pipeline ({first_line(error)})"
            raise CheckpointError(f"{problem}. Choose another folder, or fetch it again.{self.offline}") from error
