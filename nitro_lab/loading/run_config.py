"""The settings of a run of `nitro-lab train`, as its folder keeps them."""

import json
from pathlib import Path
from typing import Any


def read_config(folder: Path) -> dict[str, Any]:
    """The settings of a run.

    Raises:
        ValueError: if the file is damaged.
    """
    path = folder / "config.json"
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no run's config.json ({error}). Restore it, or choose another folder.") from error


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, and not a model in diffusers' layout, or a part of one."""
    if not (folder / "config.json").is_file() or (folder / "model_index.json").exists():
        return False
    return "student" in read_config(folder)
