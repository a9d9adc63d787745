"""Where a result comes from: the commit and the hardware, for model cards and benchmarks."""

import os
import platform
import subprocess
from pathlib import Path

import torch

__all__ = ["commit", "git", "hardware", "stamp"]

_REPOSITORY = Path(__file__).parents[2]


def git(*arguments: str) -> str:
    """Return git's output for this repository, or an empty string without git or a repository."""
    try:
        run = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return ""
    return run.stdout.strip()


def commit() -> str:
    """Return the commit of the working tree, and whether the code differs from it."""
    changed = git("status", "--porcelain", "--", "nitro_lab", "tools")
    return (git("rev-parse", "HEAD") or "unknown (not a git checkout)") + (" with changes" if changed else "")


def hardware(device: torch.device) -> str:
    """Describe the processor."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return f"{name} ({platform.machine()})"


def stamp(folder: Path) -> str:
    """Return the commit that the work in a folder started with; it is written there the first time."""
    file = folder / "commit.txt"
    if not file.exists():
        file.write_text(commit() + "\n")
    return file.read_text().strip()
