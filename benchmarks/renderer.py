"""Scenes per second of the renderer on one core: `.venv/bin/python benchmarks/renderer.py`."""

import time

import torch

from nitro_lab.mini.render import render
from nitro_lab.mini.world import all_scenes, draw_scenes

BATCH, REPEATS = 256, 5


def main() -> None:
    """Time some batches of every kind of scene; the fastest one tells what the code can do."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    rates = []
    for _ in range(REPEATS):
        scenes = draw_scenes(all_scenes(), BATCH, generator)
        start = time.perf_counter()
        render(scenes, generator)
        rates.append(BATCH / (time.perf_counter() - start))
    print(f"renderer, one core, batches of {BATCH}: {max(rates):.0f} scenes/s at best, {min(rates):.0f} at worst")


if __name__ == "__main__":
    main()
