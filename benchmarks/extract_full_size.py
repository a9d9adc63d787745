"""Measures `nitro-lab extract-lora` and `transfer`.

    python benchmarks/extract_full_size.py full-size    # SDXL with random weights: seconds and memory; 20 GB of disk
    python benchmarks/extract_full_size.py miniature    # the metrics of `nitro-lab evaluate` by rank
    python benchmarks/extract_full_size.py restyled     # the student of a teacher that was fine-tuned to grey images

docs/lora.md has the results.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from shutil import rmtree

import pandas as pd
import torch
import tyro
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import trange

sys.path.append(str(Path(__file__).parents[1] / "notebooks"))

from nitro_lab import load_pipeline
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.extraction import extract_lora, transfer
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import caption, sample_scenes, split_scenes
from nitro_lab.plots.canvas import picture_grid
from nitro_lab.sampling import encode, encode_prompts, predict_noise
from workbook.sdxl_size import make_parts

COLUMNS = ["told_apart", "shape", "texture", "all", "FD", "FD (random)", "sharpness"]


def full_size(folder: Path = Path("build/full-size"), rank: int = 64, change: float = 1e-3) -> None:
    """Time both verbs on random UNets of SDXL's size in float16, a base in shards and a student in one file.

    Args:
        folder: of the files, deleted afterwards.
        rank: of the LoRA.
        change: standard deviation of the student's difference, which is white noise: the hardest to approximate.
    """
    base, student, out = folder / "base", folder / "student.safetensors", folder / "transferred.safetensors"
    (base / "unet").mkdir(parents=True)
    try:
        _write_unets(base, student, change)
        arguments = [str(student), "--base", str(base)]
        _time("extract-lora", *arguments, "--rank", str(rank), "--out", str(folder / "lora.safetensors"))
        print(f"LoRA: {(folder / 'lora.safetensors').stat().st_size / 1e9:.2f} GB")
        _time("transfer", *arguments, "--other", str(base), "--out", str(out))
        with safe_open(student, "pt") as expected, safe_open(out, "pt") as written:
            same = [torch.equal(expected.get_tensor(name), written.get_tensor(name)) for name in expected.keys()]  # noqa: SIM118
        print(f"base + (student − base) is the student in {sum(same)} of {len(same)} tensors")
    finally:
        rmtree(folder)


def _write_unets(base: Path, student: Path, change: float) -> None:
    """Write a pipeline's folder that has a UNet alone, shard by shard, and a student near it."""
    shapes = {name: weight.shape for name, weight in make_parts()["UNet"].state_dict().items()}
    shards: list[dict[str, torch.Size]] = [{}]
    for name, shape in shapes.items():
        if sum(each.numel() for each in shards[-1].values()) > 500_000_000:
            shards.append({})
        shards[-1][name] = shape
    generator = torch.Generator().manual_seed(0)
    files, changed = {}, {}
    for number, shard in enumerate(shards, 1):
        file = f"diffusion_pytorch_model.fp16-{number:05}-of-{len(shards):05}.safetensors"
        weights = {name: (torch.randn(shape, generator=generator) / 50).half() for name, shape in shard.items()}
        save_file(weights, base / "unet" / file)
        files |= dict.fromkeys(shard, file)
        noise = {name: change * torch.randn(shape, generator=generator) for name, shape in shard.items()}
        changed |= {name: (weights[name] + noise.pop(name)).half() for name in shard}
    index = {"metadata": {}, "weight_map": files}
    (base / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    (base / "model_index.json").write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}))
    save_file(changed, student)


def _time(*arguments: str) -> None:
    """Run a verb of `nitro-lab` in its own process, and print how long it took and its peak memory on Linux."""
    code = "import sys; from nitro_lab.cli import main; code = main(sys.argv[1:]);"
    code += "print(open('/proc/self/status').read()); sys.exit(code)"
    start, computing = time.perf_counter(), os.times().children_user
    command = [sys.executable, "-c", code, *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    seconds, computing = time.perf_counter() - start, os.times().children_user - computing
    peak = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("VmHWM:")) / 1e6
    print(output.partition("Name:")[0].strip())
    print(f"{arguments[0]}: {seconds:.0f} s, {computing:.0f} s of them computing; {peak:.2f} GB, mapped files included")


def miniature(ranks: tuple[int, ...] = (4, 8, 16, 32, 1000), folder: Path = Path("build/ranks")) -> None:
    """Print the metrics of the shipped student, in one step, as LoRAs of its teacher.

    Args:
        ranks: of the LoRAs; 1000 is above the full rank of every layer.
        folder: of the LoRAs.
    """
    teacher = load_pipeline("mini-teacher")
    eval_set = evaluation.make_eval_set(teacher, load_scene_classifier(teacher.device))
    eval_set = evaluation.with_teacher(eval_set, teacher)
    rows = {}
    for title in ("mini", *ranks):
        pipe, size, kept = load_pipeline("mini"), 11.1, 1.0
        if isinstance(title, int):
            file = folder / f"rank-{title}.safetensors"
            table = extract_lora("mini", "mini-teacher", file, title)
            kept = 1 - (table.error**2).sum() / (table.difference**2).sum()
            pipe, size = load_pipeline("mini-teacher", shifted_timestep=250), file.stat().st_size / 1e6
            pipe.load_lora_weights(file)
        figures = evaluation.compute_metrics(eval_set, evaluation.sample_eval_set(eval_set, pipe, 1))
        rows[title] = {"MB": size, "kept": kept, **{column: figures[column] for column in COLUMNS}}
        print(pd.DataFrame(rows).T.round(4).to_string(), flush=True)


def restyled(
    steps: int = 250, folder: Path = Path("build/restyled"), picture: Path = Path("build/restyled/samples.png")
) -> None:
    """Fine-tune the miniature's teacher on grey images, and make it a one-step model without training a student.

    Args:
        steps: of the fine-tuning.
        folder: of the weights.
        picture: a PNG file of samples.
    """
    pipe = load_pipeline("mini-teacher")
    _fine_tune_on_grey(pipe, steps)
    folder.mkdir(parents=True, exist_ok=True)
    grey, moved, lora = (folder / f"{name}.safetensors" for name in ("grey", "moved", "lora"))
    save_file({name: weight.half().contiguous() for name, weight in pipe.unet.state_dict().items()}, grey)
    transfer("mini", "mini-teacher", grey, moved)
    extract_lora("mini", "mini-teacher", lora, 32)
    with_lora = load_pipeline("mini-teacher", unet=grey, shifted_timestep=250)
    with_lora.load_lora_weights(lora)
    models = {
        "student of the teacher": load_pipeline("mini"),
        "grey teacher": load_pipeline("mini-teacher", unet=grey, shifted_timestep=250),
        "grey teacher + (student − teacher)": load_pipeline("mini-teacher", unet=moved, shifted_timestep=250),
        "grey teacher, LoRA of rank 32": with_lora,
    }
    eval_set = evaluation.make_eval_set(pipe, load_scene_classifier(pipe.device))
    images = {"grey teacher, 25 steps": evaluation.sample_eval_set(eval_set, pipe, 25, evaluation.TEACHER_GUIDANCE)}
    images |= {f"{name}, 1 step": evaluation.sample_eval_set(eval_set, model, 1) for name, model in models.items()}
    rows = {}
    for name, sampled in images.items():
        figures = evaluation.compute_metrics(eval_set, sampled)
        colour = float((sampled.amax(1) - sampled.amin(1)).mean() / 2)  # of images in [-1, 1]
        rows[name] = {"colour": colour, "shape": figures["shape"], "sharpness": figures["sharpness"]}
    print(pd.DataFrame(rows).T.round(3).to_string())
    shown = {name: sampled[:8] for name, sampled in images.items()}
    picture_grid(shown, eval_set.prompts[:8]).savefig(picture, dpi=72)


def _fine_tune_on_grey(pipe: StableDiffusionXLPipeline, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    forward_process = DDPMScheduler.from_config(pipe.scheduler.config)
    optimizer = torch.optim.AdamW(pipe.unet.requires_grad_(True).parameters(), 3e-4)
    for _ in trange(steps, desc="fine-tune"):
        scenes = sample_scenes(split_scenes()[0], 16, generator)
        with torch.no_grad():
            grey = render(scenes, generator).mean(1, keepdim=True).expand(-1, 3, -1, -1)
            latents, embeds = encode(pipe, grey), encode_prompts(pipe, [caption(scene) for scene in scenes])
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(1000, (len(scenes),), generator=generator)
        eps = predict_noise(pipe.unet, forward_process.add_noise(latents, noise, t), t, embeds)
        optimizer.zero_grad()
        (eps - noise).square().mean().backward()
        optimizer.step()


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"full-size": full_size, "miniature": miniature, "restyled": restyled})
