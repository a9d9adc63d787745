"""A training run in a folder: the one driver of the training step, for the command line, notebooks and `compare`.

config.json             the settings
run.lock                keeps a second training of the same folder out
checkpoint.safetensors  everything that is needed to resume, bit for bit
reports.csv             one row per step
student.safetensors     the EMA student's UNet in half precision, for `load_pipeline` and `load_unet`; or, with
                        student="lora", student_lora.safetensors, for `load_pipeline` and diffusers' load_lora_weights
"""

import csv
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nitro_lab.checkpoint import Checkpoint, atomic_write
from nitro_lab.models import MODELS, read_run_config
from nitro_lab.randomness import global_seed_from
from nitro_lab.sampling import StudentStep, decode, encode_prompts, predict_x0
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.data import sample_prompts, split_source
from nitro_lab.training.part_checks import check_parts
from nitro_lab.training.parts import Parts
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import StepReport, training_step
from nitro_lab.training.student import save_student, student_weights
from nitro_lab.weights import CheckpointError

__all__ = ["TrainingRun", "read_reports", "steps_done"]

_PATHS = ("teacher", "init_from", "prompts")  # settings that may be paths; the checkpoint has hashes of what they name


class TrainingRun:
    """A training in a folder. `steps()` trains and yields a report per step; it can be stopped and resumed at will.

    Args:
        folder: of this run; where a run with the same settings is there, it is resumed.
        parts: replaced parts.

    Attributes:
        state: models, pool, optimizer and generators.
        reports: of the steps that this object has done.
        samples: step -> images (N, 3, H, W) in [-1, 1] of the EMA student at each checkpoint; 0: before training.
        sample_prompts: the N prompts.

    Raises:
        ValueError: if the folder holds a run with other settings, or a part does not fit.
        CheckpointError: if its checkpoint is damaged.
    """

    def __init__(self, config: DistillConfig, folder: str | Path, parts: Parts | None = None):
        config, folder = _with_absolute_paths(config), Path(folder)
        _check_settings(config, folder)
        if (done := steps_done(folder)) > config.max_train_steps:
            raise ValueError(f"max_train_steps is {config.max_train_steps}, but the run in {folder} has {done} steps.")
        self.config, self.folder = config, folder
        self.state: TrainState = prepare_training(config, folder, parts)
        check_parts(self.state)
        self.reports: list[StepReport] = []
        self.sample_prompts = sample_prompts(config)
        with torch.no_grad():
            self._sample_embeds = encode_prompts(self.state.pipe, self.sample_prompts)
        self._offload(self.state.pipe.text_encoder, self.state.pipe.text_encoder_2)  # not needed any more
        self.samples = {0: self._sample()}
        self.state.checkpoint.load()  # `state` and `sample_images` are then those of the last checkpoint
        self._interrupted = False

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self.reports[-1].step if self.reports else min(steps_done(self.folder), self.config.max_train_steps)

    def steps(self) -> Generator[StepReport, None, None]:
        """Train from the checkpoint to the last step. Closing the generator saves first.

        Raises:
            ValueError: if another process trains in the folder, or this one was interrupted before a checkpoint.
            FloatingPointError: if a loss or gradient is NaN or infinite.
            OSError, SafetensorError: if the folder cannot be written; what was saved before stays whole.
        """
        if self._interrupted and not self.state.checkpoint.path.exists():
            problem = f"The run in {self.folder} was interrupted before its first checkpoint; its weights have changed"
            raise ValueError(f"{problem}. Create a new TrainingRun with the same arguments to start again.")
        if not self.state.accelerator.is_main_process:
            yield from self._train()
            return
        with _only_training_in(self.folder):
            yield from self._train_and_write()

    def _train_and_write(self) -> Iterator[StepReport]:
        """Train, and keep the folder's files in step with the checkpoint."""
        config_json = json.dumps(asdict(self.config), indent=2) + "\n"
        atomic_write(self.folder / "config.json", lambda file: file.write_text(config_json, encoding="utf-8"))
        done = steps_done(self.folder)
        self._truncate_reports(done)
        self._interrupted = True
        steps = self._train()
        for report in steps:
            try:
                self._append(report)
            except BaseException as error:  # interrupts too: no checkpoint may be ahead of the other files
                steps.throw(error)
            try:
                yield report
            except GeneratorExit:
                steps.close()
                self._interrupted = False
                raise
        self._interrupted = False

    def _train(self) -> Generator[StepReport, None, None]:
        """The training loop: step, student, report, checkpoint. All processes take part: a student may be sharded."""
        config, checkpoint = self.config, self.state.checkpoint
        for step in range(checkpoint.load(), config.max_train_steps):
            with global_seed_from(self.state.generator):  # for dropout and other randomness in custom heads
                report = training_step(self.state, step)
            is_saved = report.step % config.checkpointing_steps == 0 or report.step == config.max_train_steps
            if is_saved:
                self._write_student(report.step)
            try:
                yield report
            except GeneratorExit:
                if not is_saved:
                    self._write_student(report.step)
                checkpoint.save(report.step, write=self.state.accelerator.is_main_process)
                raise
            if is_saved:
                checkpoint.save(report.step, write=self.state.accelerator.is_main_process)

    def table(self) -> pd.DataFrame:
        """The run's reports, one row per step; empty before the first."""
        path = self.folder / "reports.csv"
        return read_reports(self.folder) if path.exists() else pd.DataFrame(columns=self._columns())

    def sample_images(self, num_inference_steps: int = 1) -> Tensor:
        """Images (N, 3, H, W) in [-1, 1] of the EMA student as it is now, for `sample_prompts` and fixed noise."""
        with self.state.averaged():
            return self._sample(num_inference_steps)

    @torch.no_grad()
    def _sample(self, num_inference_steps: int = 1) -> Tensor:
        """Images for the same prompts and noise in every run, whatever its seed."""
        state, generator = self.state, torch.Generator().manual_seed(0)
        shape = (len(self.sample_prompts), *state.samples.x0.shape[1:])
        x_T = torch.randn(shape, generator=generator).to(state.accelerator.device)
        last = StudentStep(num_inference_steps, num_inference_steps)
        with state.accelerator.autocast():
            x0 = predict_x0(state.student, state.scheduler, x_T, self._sample_embeds, last, generator)
        state.pipe.vae.to(state.accelerator.device)
        images = decode(state.pipe, x0).cpu()
        self._offload(state.pipe.vae)
        return images

    def _offload(self, *modules: torch.nn.Module) -> None:
        """Make room on a GPU: move what the training does not need to the CPU."""
        for module in modules if self.config.student == "lora" or self.config.gradient_checkpointing else ():
            module.to("cpu")

    def _columns(self) -> list[str]:
        by_view = [f"logit_gap_{name.replace(' ', '_')}" for name in self.state.views]
        first = ["step", "num_inference_steps", "k", "t_star", "disc_loss", "student_loss", "logit_gap"]
        return [*first, *by_view, "grad_norm", "disc_grad_norm", "num_refreshed", "seconds"]

    def _append(self, report: StepReport) -> None:
        row = [
            report.step,
            report.student_step.num_inference_steps,
            report.student_step.k,
            self.config.t_star[report.noise_level],
            report.disc_loss,
            report.student_loss,
            report.logit_gaps.mean().item(),
            *report.logit_gaps.flatten(1).mean(1).tolist(),
            report.grad_norm,
            report.disc_grad_norm,
            len(report.refreshed),
            round(report.seconds, 4),
        ]
        with (self.folder / "reports.csv").open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)
        self.reports.append(report)

    def _truncate_reports(self, done: int) -> None:
        """Drop reports of steps after the checkpoint: they are done again."""
        self.reports = [report for report in self.reports if report.step <= done]
        path = self.folder / "reports.csv"
        rows = [line.split(",") for line in path.read_text(errors="replace").splitlines()[1:]] if path.exists() else []
        columns = self._columns()  # the last row of a killed process may be incomplete
        kept = [row for row in rows if len(row) == len(columns) and row[0].isdecimal() and int(row[0]) <= done]
        text = "".join(",".join(row) + "\n" for row in [columns, *kept])
        atomic_write(path, lambda file: file.write_text(text))

    def _write_student(self, step: int) -> None:
        """Write the EMA student, and sample it."""
        with self.state.averaged() as student:
            self.samples[step] = self._sample()
            weights = student_weights(student, self.config)
        if self.state.accelerator.is_main_process:
            save_student(weights, self.folder, self.config)


def read_reports(folder: str | Path) -> pd.DataFrame:
    """The reports of a run's folder, one row per step."""
    path = Path(folder) / "reports.csv"
    try:
        return pd.read_csv(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Restore it, or start again in another folder.") from error


def steps_done(folder: Path) -> int:
    """Steps of a run's checkpoint, 0 if there is none; a CheckpointError if it is damaged."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    try:
        with safe_open(path, "pt") as file:
            return int(file.metadata()["step"])
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Restore it, or start again in another folder.") from error


@contextmanager
def _only_training_in(folder: Path) -> Iterator[None]:
    """Refuse a second training of the same folder: the two would overwrite each other's files."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "run.lock", timeout=0):
            yield
    except Timeout as error:
        problem = f"Another training is running in {folder}"
        raise ValueError(f"{problem}. Stop it, wait for it, or choose another folder.") from error


def _with_absolute_paths(config: DistillConfig) -> DistillConfig:
    """The same settings, valid from any working directory."""

    def absolute(name: str) -> str:
        return str(Path(name).resolve()) if name and name not in MODELS and Path(name).exists() else name

    paths: dict[str, Any] = {name: absolute(getattr(config, name)) for name in ("teacher", "init_from")}
    source, column = split_source(config.prompts)
    paths["prompts"] = f"{absolute(source)}:{column}" if column else absolute(source)
    return replace(config, **paths)


def _check_settings(config: DistillConfig, folder: Path) -> None:
    """Refuse a folder whose run has other settings."""
    path = folder / "config.json"
    if path.exists():
        saved = read_run_config(folder)
        moved = [name for name in _PATHS if _is_gone(str(saved.get(name)))]
        keys = {name: value for name, value in config.key_settings().items() if name not in moved}  # see the checkpoint
        Checkpoint(path, keys).check_settings({name: saved[name] for name in saved if name in keys})


def _is_gone(source: str) -> bool:
    """Whether a setting is an absolute path, perhaps with a column, where nothing is any more."""
    path = Path(split_source(source)[0])
    return path.is_absolute() and not path.exists()
