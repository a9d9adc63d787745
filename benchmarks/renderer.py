"""Measures scenes per second of the renderer on one core: `python benchmarks/renderer.py`."""

import time

import torch

from nitro_lab.mini.render import render
from nitro_lab.mini.world import all_scenes, sample_scenes

BATCH_SIZE, REPEATS = 256, 5


def main() -> None:
    """Time batches of all kinds of scenes."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(REPEATS):
        scenes = sample_scenes(all_scenes(), BATCH_SIZE, generator)
        start = time.perf_counter()
        render(scenes, generator)
        rates.append(BATCH_SIZE / (time.perf_counter() - start))
    print(f"one core, batches of {BATCH_SIZE}: {max(rates):.0f} scenes/s at best, {min(rates):.0f} at worst")


if __name__ == "__main__":
    main()
