"""How much memory something took at most."""

import sys
from pathlib import Path

import psutil
import torch

LINUX = Path("/proc/self")
MIB = 2**20


def forget_peak() -> None:
    """Measure from here on, where the system can; elsewhere the peak is that of the process' whole life."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        (LINUX / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size


def peak_memory() -> float:
    """MiB at the highest: of this process' tensors on the GPU; without one, of the process, libraries and all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    if sys.platform == "linux":
        lines = (line.split() for line in (LINUX / "status").read_text().splitlines())
        return next(int(words[1]) / 1024 for words in lines if words and words[0] == "VmHWM:")
    told = psutil.Process().memory_info()
    return getattr(told, "peak_wset", told.rss) / MIB
