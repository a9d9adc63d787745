"""Where a result comes from: the commit and the machine, for cards and benchmarks."""

import os
import platform
import subprocess
from pathlib import Path

import torch


def git(*words: str) -> str:
    """What git answers about the working tree."""
    answer = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return answer.stdout.strip()


def commit() -> str:
    """The commit that the working tree stands on, and whether the package differs from it."""
    changed = git("status", "--porcelain", "--", str(Path(__file__).parent))
    return (git("rev-parse", "HEAD") or "unknown (not a git checkout)") + (" with changes" if changed else "")


def hardware(device: torch.device) -> str:
    """The processor in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    return f"{name} ({platform.machine()})"


def stamp(folder: Path) -> str:
    """The commit that the work in a folder began with: written down the first time, and read after that."""
    file = folder / "commit.txt"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(commit() + "\n")
    return file.read_text().strip()
