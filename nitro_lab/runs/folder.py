"""A run of adversarial distillation as a folder: settings, checkpoint, reports, pictures, and the student it made.

config.json             the settings
commit.txt              the commit that it began with
run.lock                keeps a second training out while one is at work
checkpoint.safetensors  everything that the run needs to go on
reports.csv             one row a step
samples-STEP.png        fixed captions and noise: the soft student as it was, the averaged student as it is
curves.png              losses, margins and gradient norm
student.safetensors     the averaged student's UNet in half precision, for `load_unet` and `load_pipeline(unet=)`
"""

import csv
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nitro_lab.distill import Report, train
from nitro_lab.distill_config import DistillConfig
from nitro_lab.ideas import AS_CONFIGURED, Ideas
from nitro_lab.loading.run_config import read_config
from nitro_lab.loading.weight_files import CheckpointError
from nitro_lab.mini.world import caption, split_scenes
from nitro_lab.plots.canvas import picture_grid
from nitro_lab.plots.training import training_curves
from nitro_lab.provenance import stamp
from nitro_lab.sampling import decode, encode_prompts, predict_x0
from nitro_lab.snapshots import Snapshot, replace_file
from nitro_lab.stages import Turn
from nitro_lab.studio import Training, prepare, read_prompts
from nitro_lab.views import CHOICES

COLUMNS = (
    "step",
    "schedule",
    "k",
    "t_star",
    "critic_loss",
    "student_loss",
    "margin",
    *(f"margin_{view.replace(' ', '_')}" for view in CHOICES),
    "gradient_norm",
    "critic_gradient_norm",
    "refreshed",
    "seconds",
)
PICTURES = 8  # of a sample grid's row


def run(config: DistillConfig, folder: Path, ideas: Ideas = AS_CONFIGURED) -> Generator[Report, None, None]:
    """Train in a folder, or go on with the training that is in it; a report after each step.

    Closing the generator saves first, as that of `nitro_lab.distill.train` does.

    Raises:
        ValueError: if the folder holds a run under other settings (the message names them), or one that is under way.
        FloatingPointError: if a loss or gradient is no number.
        OSError, SafetensorError: if the folder cannot be written; what was saved before is whole.
    """
    check_settings(config, folder)
    training = prepare(config, folder, ideas)
    if not training.accelerator.is_main_process:
        yield from train(training)
        return
    stamp(folder)
    with only_one(folder):
        yield from train_in(training, folder)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep a second training out of a folder; two would write over each other."""
    try:
        with FileLock(folder / "run.lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"Another training is at work in {folder}. Wait for it, stop it, or choose another folder."
        ) from error


def train_in(training: Training, folder: Path) -> Generator[Report, None, None]:
    """Train, and keep the folder's files in step with the checkpoint."""
    config = training.config
    replace_file(folder / "config.json", lambda file: file.write_text(json.dumps(asdict(config), indent=2) + "\n"))
    drop_rows(folder / "reports.csv", steps_done(folder))
    before = draw_samples(training, training.student)  # not yet overwritten from the checkpoint
    reports = train(training)
    for report in reports:
        try:
            append_row(folder / "reports.csv", row_of(report, config, training.ideas))
            if report.step % config.save_every == 0 or report.step == config.steps:
                show(training, folder, before, report.step)
        except BaseException as error:  # an interrupt too: no checkpoint may be ahead of the other files
            reports.throw(error)
        try:
            yield report
        except GeneratorExit:
            reports.close()
            show(training, folder, before, report.step)
            raise


def check_settings(config: DistillConfig, folder: Path) -> None:
    """Refuse a folder whose run was trained under settings that would have given other numbers."""
    path = folder / "config.json"
    if path.exists():
        unimportant = asdict(config).keys() - config.outcome().keys()
        saved = {name: value for name, value in read_config(folder).items() if name not in unimportant}
        Snapshot(path, config.outcome()).check_settings(saved)


def steps_done(folder: Path) -> int:
    """Steps in a run's checkpoint; 0 where there is none.

    Raises:
        CheckpointError: if it is damaged.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}). Restore it, or start afresh in another folder.") from error


def row_of(report: Report, config: DistillConfig, ideas: Ideas = AS_CONFIGURED) -> list[float]:
    """A report in numbers, in the order of `COLUMNS`; nan for a view that there is not."""
    by_view = dict(zip(ideas.views_of(config), report.margins.flatten(1).mean(1).tolist(), strict=True))
    return [
        report.step,
        report.turn.steps,
        report.turn.k,
        config.t_star[report.noise_level],
        report.critic_loss,
        report.student_loss,
        report.margins.mean().item(),
        *(by_view.get(view, float("nan")) for view in CHOICES),
        report.gradient_norm,
        report.critic_gradient_norm,
        len(report.refreshed),
        round(report.seconds, 4),
    ]


def append_row(path: Path, row: list[float]) -> None:
    """Write a row to the end of a file that `drop_rows` has made."""
    with path.open("a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(row)


def drop_rows(path: Path, last: int) -> None:
    """Keep the header and the rows up to a step, so that the steps after a checkpoint are not told twice."""
    rows = list(csv.reader(path.open(newline=""))) if path.exists() else []
    kept = [row for row in rows[1:] if len(row) == len(COLUMNS) and int(row[0]) <= last]

    def write(file: Path) -> None:
        with file.open("w", newline="") as opened:
            csv.writer(opened, lineterminator="\n").writerows([COLUMNS, *kept])

    replace_file(path, write)


def read_reports(folder: Path) -> dict[str, list[float]]:
    """Columns of a run's reports."""
    with (folder / "reports.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in COLUMNS}


def show(training: Training, folder: Path, before: torch.Tensor, step: int) -> None:
    """Write what a save shows: the student, its pictures, and the curves so far."""
    student = training.average.module
    weights = {name: value.to(torch.float16).contiguous() for name, value in student.state_dict().items()}
    replace_file(folder / "student.safetensors", lambda file: save_file(weights, file, metadata={"format": "pt"}))
    rows = {"soft student, before": before}
    for count in range(1, max(training.config.stages) + 1):
        several = f", in {count} steps" if count > 1 else ""
        rows[f"averaged student, step {step}{several}"] = draw_samples(training, student, count)
    replace_file(folder / f"samples-{step}.png", picture_grid(rows, sample_prompts(training.config)).savefig)
    curves = training_curves(read_reports(folder), *training.ideas.told_of_objective(training.config))
    replace_file(folder / "curves.png", curves.savefig)


@torch.no_grad()
def draw_samples(training: Training, student: UNet2DConditionModel, steps: int = 1) -> torch.Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] of the same captions and noise for every student, from every seed's run."""
    prompts = sample_prompts(training.config)
    told = encode_prompts(training.pipe, prompts)
    shape = (len(prompts), *training.samples.x0.shape[1:])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape, generator=generator).to(training.samples.x0)
    x0 = predict_x0(student, training.scheduler, noise, told, Turn(steps, steps), generator)
    return decode(training.pipe, x0).cpu()


def sample_prompts(config: DistillConfig) -> list[str]:
    """The first prompts of the prompt file; held-out captions of the miniature's world if there is none."""
    if config.prompts:
        return read_prompts(config)[:PICTURES]
    scenes = split_scenes()[1]
    return [caption(scene) for scene in scenes[:: len(scenes) // PICTURES][:PICTURES]]
