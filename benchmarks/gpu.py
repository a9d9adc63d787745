"""What only a GPU can show: parts of benchmarks/gpu.sh, each of which writes a JSON file.

    python benchmarks/gpu.py steps build/gpu/steps.json
    python benchmarks/gpu.py heads build/gpu/heads.json
    python benchmarks/gpu.py image build/gpu/image.json
    python benchmarks/gpu.py collect build/gpu docs/gpu.json

`--smoke` is the smallest form, for a test on a CPU. Times are medians; with CUDA, after the GPU has finished.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import tyro
from torch import nn
from tyro.conf import Positional

sys.path.append(str(Path(__file__).parents[1] / "notebooks"))

from pool import CONFIG, on_device

from nitro_lab.training.state import prepare_training
from nitro_lab.training.step import sample_features, training_step
from workbook.sdxl_size import make_parts

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], object], rounds: int) -> float:
    """Median time of a call, after two to warm up."""
    times = []
    for turn in range(rounds + 2):
        start = time.perf_counter()
        work()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        if turn > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def steps(out: Positional[Path], smoke: bool = False) -> None:
    """Seconds per training step of the miniature: on the CPU, on the GPU, and there in bf16 and compiled."""
    config, rounds = replace(CONFIG, batch_size=2 if smoke else 16), 1 if smoke else 10
    kinds: dict[str, tuple[str, dict[str, Any]]] = {"cpu": ("cpu", {})}
    if DEVICE.type == "cuda":
        further = {"bf16": {"mixed_precision": "bf16"}, "compiled": {"compile": True}}
        further |= {"one of 4 heads": {"sampled_heads_per_cell": 1}, "deterministic": {"deterministic": True}}
        kinds |= {name: ("cuda", settings) for name, settings in ({"gpu": {}} | further).items()}
    found = {}
    for name, (device, settings) in kinds.items():
        with on_device(device), TemporaryDirectory() as folder:
            state = prepare_training(replace(config, **settings), Path(folder))
            found[name] = seconds(lambda state=state: training_step(state, 0), 2 if device == "cpu" else rounds)
    write(out, {"batch_size": config.batch_size, "seconds": found})


def heads(out: Positional[Path], smoke: bool = False) -> None:
    """Seconds to score features with the sampled heads and differentiate: as wide layers, by vmap, one by one."""
    settings: dict[str, Any] = {"batch_size": 2} if smoke else {"batch_size": 16, "sampled_heads_per_cell": 4}
    found = {}
    with on_device(DEVICE.type), TemporaryDirectory() as folder:
        state = prepare_training(replace(CONFIG, **settings), Path(folder))
        features = sample_features(state, state.config.t_star[0])[0]
        panel = state.pool.sample(0, state.config.sampled_heads_per_cell)

        def score() -> None:
            total = torch.stack([logits.sum() for logits in panel.score(features)]).sum()
            torch.autograd.grad(total, panel.parameters())

        levels = state.pool.level_heads
        wide = [level.batched_forward for level in levels]
        for kind in ("wide", "vmap", "loop"):
            for level, forward in zip(levels, wide, strict=True):
                level.batched_forward = forward if kind == "wide" else None
                level.vectorize = kind != "loop"
            found[kind] = seconds(score, 1 if smoke else 10)
            if DEVICE.type == "cuda":
                found[f"{kind}, compiled"] = seconds(torch.compile(score), 10)
    write(out, {"heads": panel.indices.numel(), "seconds": found})


@torch.no_grad()
def image(out: Positional[Path], smoke: bool = False) -> None:
    """Seconds of one image of NitroSD's shape in one step, with random weights in half precision, part by part."""
    side, dtype = (8, torch.float32) if smoke else (128, torch.float16)
    found, parameters = {}, {}
    tokens = torch.zeros(1, 77, dtype=torch.long, device=DEVICE)
    latents = torch.randn(1, 4, side, side, device=DEVICE, dtype=dtype)
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    added = {name: x.to(DEVICE, dtype) for name, x in added.items()}
    embeds = torch.zeros(1, 77, 2048, device=DEVICE, dtype=dtype)
    calls: dict[str, Callable[[nn.Module], object]] = {
        "text encoder 1": lambda part: part(tokens),
        "text encoder 2": lambda part: part(tokens),
        "UNet": lambda part: part(latents, 249, encoder_hidden_states=embeds, added_cond_kwargs=added),
        "VAE": lambda part: part.decode(latents),
    }
    for name, part in make_parts().items():
        if smoke and name in ("text encoder 2", "UNet"):  # gigabytes
            continue
        module = part.to_empty(device=DEVICE).to(dtype).eval()
        for weight in (*module.parameters(), *module.buffers()):
            weight.zero_() if weight.is_floating_point() else weight.copy_(torch.arange(weight.numel()).view_as(weight))
        found[name] = seconds(lambda name=name, module=module: calls[name](module), 1 if smoke else 5)
        parameters[name] = sum(weight.numel() for weight in module.parameters())
    write(out, {"pixels": 8 * side, "seconds": found, "parameters": parameters})


def collect(folder: Positional[Path], out: Positional[Path]) -> None:
    """Join the JSON files of a folder, with the names of the hardware."""
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    machine = {"gpu": cards, "cpu": f"{os.cpu_count()} cores, {platform.machine()}", "torch": torch.__version__}
    write(out, machine | found)


def write(out: Path, values: dict[str, Any]) -> None:
    """Write and print a JSON file."""
    text = json.dumps(values, indent=2) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(text)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"steps": steps, "heads": heads, "image": image, "collect": collect}, description=__doc__
    )
