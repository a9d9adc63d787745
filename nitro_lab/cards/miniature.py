"""The model card of a finished miniature: how it was made, its loss curves, its pictures and its figures."""

from dataclasses import asdict
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file

from nitro_lab.cards.figures import EXAM_SEED, Figures
from nitro_lab.exam import set_exam, sit
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.build import Miniature
from nitro_lab.plots.canvas import PALETTE, panels, picture_grid
from nitro_lab.provenance import git, hardware, stamp

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
9,600 captions), a judge of that world (`judge.safetensors`), and a student that was only regressed on its
teacher (`regressed_unet.safetensors`): soft on purpose. All weights are float16. The student is told NitroSD-Realism's
shift, 250, unless the recipe says otherwise: no shift is learned much better than it (`docs/tries.md`).
"""


def write_card(miniature: Miniature, folder: Path, figures: Figures) -> None:
    """Write README.md, curves.png and samples.png into the model folder."""
    draw_curves(miniature).savefig(folder / "curves.png", dpi=90)
    draw_samples(miniature).savefig(folder / "samples.png", dpi=90)
    parts = [
        HEADER,
        "![The same held-out captions and noise: the teacher above, the soft student below](samples.png)\n",
        "## How it was made\n" + table(("", ""), provenance(miniature)),
        "### Seconds of each stage\n" + table(("stage", "seconds"), miniature.seconds()),
        "### Recipe\n" + table(("setting", "value"), asdict(miniature.recipe)),
        "![Loss curves of the trainings](curves.png)\n",
        f"## Figures\nExam: {miniature.recipe.exam_images} held-out captions, seed {EXAM_SEED}, teacher with "
        f"{miniature.recipe.exam_steps} steps and guidance {miniature.recipe.cache_guidance:g}. Accuracies, precision, "
        "recall, coverage and repetition are shares of images; sharpness is the mean power above half Nyquist, as a "
        "ratio to that of renders through the autoencoder.\n",
        *(f"### {heading[0].upper() + heading[1:]}\n" + table(("", ""), rows) for heading, rows in figures.items()),
    ]
    (folder / "README.md").write_text("\n".join(parts))


def provenance(miniature: Miniature) -> dict[str, str]:
    """Where and with what the weights were trained."""
    return {
        "command": f"`nitro-lab build-mini --recipe {miniature.recipe.name}`",
        "commit": stamp(miniature.folder),
        "began with": before(miniature),
        "hardware": hardware(miniature.pipe.device),
        "torch": torch.__version__,
        "weights": f"{sum(p.numel() for p in miniature.pipe.unet.parameters()):,} in the UNet",
    }


def before(miniature: Miniature) -> str:
    """What the weights were before the first step."""
    if not miniature.recipe.goes_on:
        return "nothing"
    start = stamp(miniature.folder).split()[0]
    last = git("log", "-1", "--format=%H", start, "--", str(MODEL_FOLDER))
    return f"the miniature of commit {last}, whose card tells its own"


def table(head: tuple[str, str], rows: dict) -> str:
    """Two columns as a table in Markdown."""
    cells = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    return "\n".join(f"| {name} | {value} |" for name, value in (head, ("---", "---"), *cells.items())) + "\n"


def draw_curves(miniature: Miniature) -> Figure:
    """Loss over steps of every stage that this recipe trains, averaged over a hundredth of the training."""
    curves = {stage: title for stage, title in CURVES.items() if miniature.file(stage).exists()}
    figure, (axes,) = panels(1, len(curves), (5 * len(curves), 3.4), squeeze=False)
    for axis, (stage, title) in zip(axes, curves.items(), strict=True):
        losses = load_file(miniature.file(stage))["losses/value"]
        width = max(1, len(losses) // 100)
        means = losses[: len(losses) // width * width].view(-1, width).mean(1)
        axis.plot((torch.arange(len(means)) + 0.5) * width, means, color=PALETTE[0])
        axis.set(title=title, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3, which="both")
    return figure


def draw_samples(miniature: Miniature) -> Figure:
    """The first captions of the exam: the teacher's images above, the student's from the same noise below."""
    recipe = miniature.recipe
    exam = set_exam(miniature.pipe, miniature.judge, "held-out", SHOWN, EXAM_SEED)
    rows = {
        f"teacher, {recipe.exam_steps} steps": sit(exam, miniature.pipe, recipe.exam_steps, recipe.cache_guidance),
        "regressed student, 1 step": sit(exam, miniature.student_pipe(), 1),
    }
    return picture_grid(rows, exam.prompts, size=1.5)
