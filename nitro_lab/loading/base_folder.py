"""A pipeline in diffusers' layout, in a folder or at a hub, of which no more is fetched than is asked for."""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn

from nitro_lab.loading.unet_file import some
from nitro_lab.loading.weight_files import REPOSITORY, VARIANTS, CheckpointError, fetch_folder, first_line, shapes_of

LIBRARIES = re.compile(r"(diffusers|transformers|nitro_lab\.mini)(\.\w+)*|nitro_lab\.scheduler")


class Base:
    """A pipeline's folder in diffusers' layout, here or in the hub's cache; of weights, only those asked for.

    Args:
        name: a folder, or `owner/repo`.
        revision: branch, tag or commit of the repository.
        prefer_half: take files of half precision (the variant `fp16`) where there are both.

    Raises:
        CheckpointError: if it is no pipeline, or cannot be fetched.
    """

    def __init__(self, name: str, revision: str | None, prefer_half: bool):
        self.name = name
        self.remote = not Path(name).is_dir() and REPOSITORY.fullmatch(name) is not None
        if revision is not None and not self.remote:
            raise ValueError(f"revision is {revision!r}, but {name} is a folder, which has no revisions. Leave it out.")
        what = name if revision is None else f"{name} at revision {revision}"
        self.folder = fetch_folder(name, revision, ["*.json", "*.txt"], what) if self.remote else Path(name)
        self.variants = ("fp16", None) if prefer_half else (None, "fp16")
        self.index = self.read("model_index.json")
        self.check_index()

    def read(self, file: str) -> dict[str, Any]:
        """One of the folder's JSON files."""
        try:
            return dict(json.loads((self.folder / file).read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.name} is no pipeline in diffusers' layout: {self.folder / file} is missing or damaged. Choose "
                "a folder that pipe.save_pretrained has written, or such a repository."
            ) from error

    def check_index(self) -> None:
        """Refuse classes from elsewhere: the index may be a stranger's, and importing a module runs its code."""
        for part, entry in self.index.items():
            match entry:
                case [None, None]:  # a part that this pipeline does without
                    continue
                case [str(library), str()] if LIBRARIES.fullmatch(library):
                    continue
                case list():
                    raise CheckpointError(
                        f"{self.folder / 'model_index.json'} gives {json.dumps(entry)} as the class of {part}. It must "
                        'be ["library", "class"], of the library diffusers, transformers, nitro_lab.mini.… or '
                        "nitro_lab.scheduler. Choose another folder or repository; nothing was loaded."
                    )

    def weights(self, part: str) -> list[Path]:
        """Files of one part's weights, fetched if they are not here: of the preferred variant, or else of the other."""
        for variant in self.variants:
            if self.remote:  # the folder's name is the commit: all parts come from one
                patterns = [f"{part}/{name}" for name in VARIANTS[variant]]
                fetch_folder(self.name, self.folder.name, ["*.json", *patterns], what=f"{self.name}/{patterns[0]}")
            files = [file for name in VARIANTS[variant] for file in sorted((self.folder / part).glob(name))]
            if files:
                return files
        raise CheckpointError(
            f"{self.name} has no safetensors file for its part {part}, neither {part}/*model.safetensors nor the "
            "variant fp16. Choose another revision or repository; pickled files (.bin, .ckpt) are not loaded."
        )

    def load_part(self, part: str, dtype: torch.dtype) -> nn.Module:
        """A text encoder or the VAE, by the class that the pipeline names; none of its weights may be missing."""
        files = self.weights(part)
        shapes_of(files)
        library, class_name = self.index[part]
        loaded, report = getattr(import_module(library), class_name).from_pretrained(
            str(self.folder / part),
            dtype=dtype,
            variant="fp16" if ".fp16" in files[0].name else None,
            use_safetensors=True,
            output_loading_info=True,
        )
        if report["missing_keys"]:  # the libraries would fill them with random numbers, and only print a note
            raise ValueError(f"{files[0]} lacks {some(sorted(report['missing_keys']))}")
        return loaded

    def assemble(self, unet: UNet2DConditionModel, dtype: torch.dtype) -> StableDiffusionXLPipeline:
        """The pipeline of this UNet and the base's other parts."""
        names = [part for part in self.index if part != "unet" and (self.folder / part / "config.json").is_file()]
        libraries = {entry[0] for entry in self.index.values() if isinstance(entry, list) and entry[0]}
        try:
            for library in libraries:  # diffusers takes a class of another library only from what is imported already
                import_module(library)
            parts = {name: self.load_part(name, dtype) for name in names}
            return StableDiffusionXLPipeline.from_pretrained(self.folder, unet=unet, **parts)
        except CheckpointError:
            raise
        except (OSError, ValueError, TypeError, LookupError, ImportError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"the parts of {self.name} (in {self.folder}) do not make an SDXL pipeline: {first_line(error)}. "
                "Choose an SDXL folder or repository in diffusers' layout, or fetch it anew; nothing was loaded."
            ) from error
