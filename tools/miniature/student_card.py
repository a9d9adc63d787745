"""The command `install`: evaluates a run's student and puts it into the package as the model `mini`, with a card."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from tyro.conf import Positional

from nitro_lab.checkpoint import atomic_write
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation.eval_set import TEACHER_GUIDANCE, TEACHER_STEPS
from nitro_lab.evaluation.table import FEW_TEACHER_STEPS, TEACHER, Columns, format_table, write_table
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline, read_run_config
from nitro_lab.plots.canvas import picture_grid
from nitro_lab.plots.training import training_curves
from nitro_lab.sampling import format_steps
from nitro_lab.training.run import read_reports
from tools.miniature.card import markdown_table
from tools.miniature.provenance import commit, hardware

__all__ = ["install"]

_REGRESSED = "mini-regressed"
_SHOWN = 8  # images
_HEADER = """# The adversarially trained student

`student_unet.safetensors`: a UNet for {steps} for the miniature beside it, trained with a pool of discriminators
(arXiv 2412.02030, section 3), in float16. `load_pipeline("mini")` loads it.

![The same held-out captions and noise: teacher, regressed student, trained student](student_samples.png)
"""


def install(
    run: Positional[Path], blend: float = 1.0, num_images: int = evaluation.NUM_IMAGES, seed: int = 0
) -> Columns:
    """Evaluate a run's student and install it as the model `mini`.

    Args:
        run: folder of `nitro-lab train`.
        blend: fraction of the run's weights; the rest is what the run started from.
        num_images: captions of the evaluation set.
        seed: random seed of the evaluation set.
    """
    if not 0 < blend <= 1:
        raise ValueError(f"blend is {blend}; it must be above 0 and at most 1, which keeps the run's weights.")
    weights = run / "student.safetensors"
    if not weights.exists():
        raise ValueError(f"{run} has no student.safetensors; give the folder of a finished `nitro-lab train`.")
    config = read_run_config(run)
    max_steps, start = max(config["stages"]), load_pipeline(config["init_from"])
    trained = load_pipeline(config["init_from"], unet=weights)
    blended = _blend_weights(trained.unet, start.unet, blend)
    students = [("regressed student", load_pipeline(_REGRESSED), 1)]
    if max_steps > 1 and config["init_from"] != _REGRESSED:
        students.append(("before refinement", start, max_steps))
    students.append(("trained student", trained, max_steps))

    columns = _evaluate(students, num_images, seed)
    curves = training_curves(read_reports(run), config["gan_loss"])
    curves.savefig(MODEL_FOLDER / "student_curves.png", dpi=90)
    write_table(columns, MODEL_FOLDER / "student_figures.json")
    (MODEL_FOLDER / "student.md").write_text(_card(run, config, columns, num_images, seed, blend))
    atomic_write(MODEL_FOLDER / "student_unet.safetensors", lambda file: save_file(blended, file))
    print(format_table(columns, num_images))
    return columns


def _evaluate(students: list[tuple[str, StableDiffusionXLPipeline, int]], num_images: int, seed: int) -> Columns:
    """Compute the metrics of renders, teacher, and students at 1 to their last step; write student_samples.png."""
    teacher = load_pipeline(TEACHER)
    classifier = load_scene_classifier(teacher.device)
    eval_set = evaluation.make_eval_set(teacher, classifier, num_images=num_images, seed=seed)
    images = {"renders": evaluation.render_again(eval_set, teacher, seed)}
    for steps in (*FEW_TEACHER_STEPS, TEACHER_STEPS):
        title = f"teacher, {format_steps(steps)}"
        images[title] = evaluation.sample_eval_set_cached(eval_set, teacher, steps, TEACHER_GUIDANCE, title)
    eval_set = replace(eval_set, teacher_images=images[title])
    for name, pipe, max_steps in students:
        for steps in range(1, max_steps + 1):
            images[f"{name}, {format_steps(steps)}"] = evaluation.sample_eval_set(eval_set, pipe, steps)
    hidden = ("renders", "before", *(f"teacher, {steps} steps" for steps in FEW_TEACHER_STEPS))
    shown = {name: row[:_SHOWN] for name, row in images.items() if not name.startswith(hidden)}
    picture_grid(shown, eval_set.prompts[:_SHOWN], size=1.5).savefig(MODEL_FOLDER / "student_samples.png", dpi=90)
    return {name: evaluation.compute_metrics(eval_set, sampled) for name, sampled in images.items()}


@torch.no_grad()
def _blend_weights(unet: UNet2DConditionModel, start: UNet2DConditionModel, fraction: float) -> dict[str, torch.Tensor]:
    """Interpolate a UNet's weights towards those that it started from (Wortsman et al. 2022, "WiSE-FT"), in place.

    Part of what training for several steps cost one-step inference comes back. Returns the weights in half precision;
    the UNet is rounded to the same values.
    """
    initial, halves = start.state_dict(), {}
    for name, value in unet.state_dict().items():
        halves[name] = initial[name].to(value).lerp(value, fraction).half()
        value.copy_(halves[name])
    return halves


def _card(run: Path, config: dict, columns: Columns, num_images: int, seed: int, blend: float) -> str:
    """The card's text: how the student was made, the settings, the curves and the table."""
    reports, max_steps = read_reports(run), max(config["stages"])
    made = {
        "command": "`nitro-lab train` with the settings below, then "
        f"`python -m tools.miniature install --blend {blend:g}`",
        "weights": f"{blend:.0%} of the run's EMA student, {1 - blend:.0%} of the model that it started from",
        "commit": commit(),
        "steps": len(reports),
        "hours": round(float(reports["seconds"].sum()) / 3600, 2),
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "torch": torch.__version__,
    }
    settings = {name: json.dumps(value) for name, value in config.items()}
    parts = [
        _HEADER.format(steps="one step" if max_steps == 1 else f"1 to {format_steps(max_steps)}"),
        "## How it was made\n" + markdown_table(("", ""), made),
        "### Settings\n" + markdown_table(("setting", "value"), settings),
        "![Losses, logit gaps and gradient norm](student_curves.png)\n",
        f"## Figures\nEvaluation set: {num_images} held-out captions, seed {seed}; metrics as in `README.md`.\n",
        markdown_table(["", *columns], {m: [column[m] for column in columns.values()] for m in columns["renders"]}),
    ]
    return "\n".join(parts)
