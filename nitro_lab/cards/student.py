"""Put a trained student into the package, beside the miniature's teacher, with a card that tells how it was made."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from nitro_lab.cards.miniature import table
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.exam import fresh_renders, mark, set_exam, sit, sit_once
from nitro_lab.loading.run_config import read_config
from nitro_lab.marks import TEACHER, TEACHER_GUIDANCE, TEACHER_STEPS, Columns, write_table
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.judge import load_judge
from nitro_lab.plots.canvas import picture_grid
from nitro_lab.provenance import hardware, stamp
from nitro_lab.runs.folder import read_reports, steps_done
from nitro_lab.snapshots import replace_file
from nitro_lab.stages import steps_in_words

NAME = "critics"  # of all files
SOFT = "mini-regressed"
SHOWN = 8
HEADER = """# The student that the critics sharpened

`critics_unet.safetensors`: a UNet for {steps} for the miniature beside it, trained by a pool of critics
(arXiv 2412.02030, section 3), in float16. `load_pipeline("mini")` loads it.

![The same held-out captions and noise: teacher, soft student, trained student](critics_samples.png)
"""


def install_student(run: Path, images: int = 1000, seed: int = 0, blend: float = 1.0) -> Columns:
    """Measure a run's student beside teacher and soft student, and write weights, card, curves, pictures and figures.

    A student that learned several steps is examined at each number of them, beside the one that it was refined from.

    Args:
        run: a folder of `nitro-lab train`.
        images: held-out captions of the exam.
        blend: share of the run's weights; the rest is what the run started from, see `blend_weights`.

    Raises:
        ValueError: if the folder holds no student, or blend is no share.
    """
    if not 0 < blend <= 1:
        raise ValueError(
            f"blend is {blend}; it must be above 0 and at most 1, which takes the run's weights as they are."
        )
    weights = run / "student.safetensors"
    if not weights.exists():
        raise ValueError(f"{run} has no student.safetensors; give the folder of a finished `nitro-lab train`.")
    config = read_config(run)
    teacher = load_pipeline(TEACHER)
    exam = set_exam(teacher, load_judge(teacher.device), images=images, seed=seed)
    before, counts = load_pipeline(config["student"]), steps_learned(config)
    students = {"soft student": (load_pipeline(SOFT), range(1, 2))}
    if len(counts) > 1 and config["student"] != SOFT:
        students["before refinement"] = (before, counts)
    trained = load_pipeline(config["student"], unet=weights)
    made = blend_weights(trained.unet, before.unet, blend)
    students["trained student"] = (trained, counts)
    teacher_name = f"teacher, {TEACHER_STEPS} steps"
    pictures = {teacher_name: sit_once(exam, teacher, TEACHER_STEPS, TEACHER_GUIDANCE, title="the teacher")}
    for name, (pipe, steps) in students.items():
        pictures |= {f"{name}, {steps_in_words(count)}": sit(exam, pipe, count) for count in steps}
    columns = {"renders": mark(exam, fresh_renders(exam, teacher, seed))}
    columns |= {name: mark(exam, drawn) for name, drawn in pictures.items()}
    shown = {name: drawn[:SHOWN] for name, drawn in pictures.items() if not name.startswith("before")}
    grid = picture_grid(shown, exam.prompts[:SHOWN], size=1.5)
    grid.savefig(MODEL_FOLDER / f"{NAME}_samples.png", dpi=90)
    shutil.copyfile(run / "curves.png", MODEL_FOLDER / f"{NAME}_curves.png")
    write_table(columns, MODEL_FOLDER / f"{NAME}_figures.json")
    (MODEL_FOLDER / f"{NAME}.md").write_text(card(run, config, columns, images, seed, blend))
    replace_file(MODEL_FOLDER / f"{NAME}_unet.safetensors", lambda file: save_file(made, file))
    return columns


@torch.no_grad()
def blend_weights(unet: UNet2DConditionModel, start: UNet2DConditionModel, share: float) -> dict[str, torch.Tensor]:
    """Move a UNet's weights back towards those that it started from (Wortsman et al. 2022, "WiSE-FT").

    What training added for several steps is kept in part, and what it took from one step comes back in part.

    Args:
        unet: is changed in place.
        share: of its own weights.

    Returns:
        The weights by name, in half precision, as they are kept; the UNet is as rounded as these.
    """
    first, halves = start.state_dict(), {}
    for name, value in unet.state_dict().items():
        halves[name] = first[name].to(value).lerp(value, share).half()
        value.copy_(halves[name])
    return halves


def steps_learned(config: dict) -> range:
    """Numbers of steps that a run's student learned to take."""
    return range(1, max(config.get("stages", (1,))) + 1)


def card(run: Path, config: dict, columns: Columns, images: int, seed: int, blend: float) -> str:
    """The text: how it was made, the settings, the curves and the table."""
    seconds, last = sum(read_reports(run)["seconds"]), steps_learned(config)[-1]
    made = {
        "command": f"`nitro-lab train` with the settings below, then `nitro-lab install --blend {blend:g}`",
        "weights": f"{blend:.0%} of the run's average, {1 - blend:.0%} of what it started from",
        "commit": stamp(run),
        "steps": steps_done(run),
        "hours": round(seconds / 3600, 2),
        "hardware": hardware(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "torch": torch.__version__,
    }
    names = list(columns)
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {m} | " + " | ".join(f"{columns[n][m]:.4g}" for n in names) + " |" for m in columns[names[0]]]
    return "\n".join(
        [
            HEADER.format(steps="one step" if last == 1 else f"1 to {steps_in_words(last)}"),
            "## How it was made\n" + table(("", ""), made),
            "### Settings\n" + table(("setting", "value"), {name: json.dumps(value) for name, value in config.items()}),
            "![Losses, margins and gradient norm](critics_curves.png)\n",
            f"## Figures\nExam: {images} held-out captions, seed {seed}; the words are those of `README.md`.\n",
            *lines,
            "",
        ]
    )
