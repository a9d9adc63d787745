"""The model card of a trained miniature: how it was made, its loss curves, samples and figures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.plots.canvas import PALETTE, panels
from tools.miniature.build import Miniature
from tools.miniature.figures import EVAL_SEED, Figures
from tools.miniature.provenance import git, hardware, stamp

__all__ = ["draw_losses", "markdown_table", "write_card"]

_TITLES = {
    "vae": "autoencoder: squared error per pixel",
    "classifier": "classifier: sum of cross-entropies",
    "teacher": "teacher: weighted squared error of ε",
    "regressed": "regressed student: squared error of x0",
}
_HEADER = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# The miniature: an SDXL of a few million parameters

A `StableDiffusionXLPipeline` with small trained parts for the captioned world of the NitroFusion workbook (64×64
pixels, 9,600 captions), a scene classifier of that world (`scene_classifier.safetensors`), and a student that was only
regressed on its teacher (`regressed_unet.safetensors`) and is therefore soft. All weights are float16. The student's
shifted timestep is NitroSD-Realism's, 250, unless the recipe sets another (`docs/tries.md` compares them).
"""


def write_card(miniature: Miniature, folder: Path, figures: Figures) -> None:
    """Write README.md and curves.png into the model folder."""
    recipe, start = miniature.recipe, "random weights"
    if recipe.from_installed:
        first = stamp(miniature.folder).split()[0]
        start = f"the miniature of commit {git('log', '-1', '--format=%H', first, '--', str(MODEL_FOLDER))}"
    made = {
        "command": f"`python -m tools.miniature build --recipe {recipe.name}`",
        "commit": stamp(miniature.folder),
        "started from": start,
        "hardware": hardware(miniature.pipe.device),
        "torch": torch.__version__,
        "parameters": f"{sum(p.numel() for p in miniature.pipe.unet.parameters()):,} in the UNet",
    }
    draw_losses(miniature).savefig(folder / "curves.png", dpi=90)
    parts = [
        _HEADER,
        "![The same held-out captions and noise: teacher above, regressed student below](samples.png)\n",
        "## How it was made\n" + markdown_table(("", ""), made),
        "### Seconds of each stage\n" + markdown_table(("stage", "seconds"), miniature.seconds()),
        "### Recipe\n" + markdown_table(("setting", "value"), asdict(recipe)),
        "![Training losses](curves.png)\n",
        f"## Figures\nEvaluation set: {recipe.eval_images} held-out captions, seed {EVAL_SEED}; teacher with "
        f"{recipe.eval_num_inference_steps} steps and guidance scale {recipe.cache_guidance_scale:g}. told_apart "
        "is the accuracy of a new network that tells the images from the teacher's; the other accuracies and "
        "repetition are fractions of the images; FD (random) is a Fréchet distance in random features of fine detail; "
        "sharpness is the mean power above half the Nyquist frequency, relative to renders through the autoencoder.\n",
        *(f"### {name[0].upper() + name[1:]}\n" + markdown_table(("", ""), rows) for name, rows in figures.items()),
    ]
    (folder / "README.md").write_text("\n".join(parts))


def markdown_table(head: Sequence[str], rows: dict[str, Any]) -> str:
    """Format rows of one or more values as a Markdown table."""
    lines = [head, ["---"] * len(head)]
    for name, values in rows.items():
        cells = values if isinstance(values, list) else [values]
        lines.append([name, *(f"{x:.4g}" if isinstance(x, float) else str(x) for x in cells)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw_losses(miniature: Miniature) -> Figure:
    """Plot the loss of every stage that was trained, averaged over hundredths of the training."""
    titles = {stage: title for stage, title in _TITLES.items() if miniature.file(stage).exists()}
    figure, (axes,) = panels(1, len(titles), (5 * len(titles), 3.4), squeeze=False)
    for axis, (stage, title) in zip(axes, titles.items(), strict=True):
        losses = load_file(miniature.file(stage))["losses/value"]
        width = max(1, len(losses) // 100)
        means = losses[: len(losses) // width * width].view(-1, width).mean(1)
        axis.plot((torch.arange(len(means)) + 0.5) * width, means, color=PALETTE[0])
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3, which="both")
    return figure
