"""The model card of a finished miniature: how it was made, its loss curves, its pictures and its figures."""

import platform
import subprocess
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from nitro_lab.exam import set_exam, sit
from nitro_lab.mini.build import Miniature
from nitro_lab.mini.figures import EXAM_SEED, Figures

CURVES = {
    "vae": "autoencoder: squared error of a pixel",
    "judge": "judge: sum of cross-entropies",
    "teacher": "teacher: weighted squared error of ε",
    "regressed": "regressed student: squared error of x0",
}
SHOWN = 8
HEADER = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The miniature: an SDXL of a few million weights

A `StableDiffusionXLPipeline` of small trained parts for the captioned world of the NitroFusion workbook (64×64 pixels,
9,600 captions), a judge of that world (`judge.safetensors`), and a one-step student that was only regressed on its
teacher (`regressed_unet.safetensors`): soft on purpose. All weights are float16.
"""


def write_card(miniature: Miniature, folder: Path, figures: Figures) -> None:
    """Write README.md, curves.png and samples.png into the model folder."""
    save(draw_curves(miniature), folder / "curves.png")
    save(draw_samples(miniature), folder / "samples.png")
    parts = [
        HEADER,
        "![The same held-out captions and noise: the teacher above, the soft student below](samples.png)\n",
        "## How it was made\n" + table(("", ""), provenance(miniature)),
        "### Seconds of each stage\n" + table(("stage", "seconds"), miniature.seconds()),
        "### Recipe\n" + table(("setting", "value"), asdict(miniature.recipe)),
        "![Loss curves of the four trainings](curves.png)\n",
        f"## Figures\nExam: {miniature.recipe.exam_images} held-out captions, seed {EXAM_SEED}, teacher with "
        f"{miniature.recipe.exam_steps} steps and guidance {miniature.recipe.cache_guidance:g}. Accuracies, precision, "
        "recall, coverage and repetition are shares of images; sharpness is the mean power above half Nyquist, as a "
        "ratio to that of renders through the autoencoder.\n",
        *(f"### {heading[0].upper() + heading[1:]}\n" + table(("", ""), rows) for heading, rows in figures.items()),
    ]
    (folder / "README.md").write_text("\n".join(parts))


def provenance(miniature: Miniature) -> dict[str, str]:
    """Where and with what the weights were trained."""
    device = miniature.pipe.device
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU cores"
    return {
        "command": f"`nitro-lab build-mini --recipe {miniature.recipe.name}`",
        "commit": commit(),
        "hardware": f"{hardware} ({platform.machine()})",
        "torch": torch.__version__,
        "weights": f"{sum(p.numel() for p in miniature.pipe.unet.parameters()):,} in the UNet",
    }


def commit() -> str:
    """The commit that the working tree stands on."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return git.stdout.strip() or "unknown (not a git checkout)"


def table(head: tuple[str, str], rows: dict) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {name} | {f'{value:.4g}' if isinstance(value, float) else value} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n"


def draw_curves(miniature: Miniature) -> Figure:
    """Loss over steps of every trained stage, averaged over a hundredth of the training."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for axis, stage in zip(axes.flat, CURVES, strict=True):
        losses = load_file(miniature.file(stage))["losses/value"]
        width = max(1, len(losses) // 100)
        means = losses[: len(losses) // width * width].view(-1, width).mean(1)
        axis.plot((torch.arange(len(means)) + 0.5) * width, means, color="#0072B2")
        axis.set(title=CURVES[stage], xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3, which="both")
    return figure


def draw_samples(miniature: Miniature) -> Figure:
    """The first captions of the exam: the teacher's images above, the student's from the same noise below."""
    recipe = miniature.recipe
    exam = set_exam(miniature.pipe, miniature.judge, "held-out", SHOWN, EXAM_SEED)
    rows = {
        f"teacher\n{recipe.exam_steps} steps": sit(exam, miniature.pipe, recipe.exam_steps, recipe.cache_guidance),
        "regressed student\n1 step": sit(exam, miniature.student_pipe(), 1),
    }
    figure, axes = plt.subplots(len(rows), SHOWN, figsize=(1.7 * SHOWN, 4.2), layout="constrained")
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        for axis, image in zip(line, images.float().cpu(), strict=True):
            axis.imshow((image.permute(1, 2, 0) + 1) / 2, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(title)
    for axis, prompt in zip(axes[0], exam.prompts, strict=True):
        words = prompt.split()
        axis.set_title("\n".join(" ".join(words[i : i + 3]) for i in range(0, len(words), 3)), fontsize=7)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure and forget it."""
    figure.savefig(path, dpi=90)
    plt.close(figure)
