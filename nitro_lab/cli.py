"""The workbook without a notebook: train, sample, evaluate, memory, extract-lora and transfer."""

import io
import os
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from nitro_lab.training.config import DistillConfig
from nitro_lab.weights import CheckpointError

if TYPE_CHECKING:
    from nitro_lab.training.run import TrainingRun

__all__ = ["main"]

_PROMPT = "a large striped red star at the top on a sunset background"


@dataclass(frozen=True)
class Train:
    """Train a one-step student adversarially. The same command resumes an interrupted training."""

    config: Annotated[DistillConfig, arg(name="")]
    out: Path = Path("build/distill")  # folder of the run

    def __call__(self) -> int:
        from safetensors import SafetensorError

        if self.config.max_train_steps <= self.config.disc_warmup_steps:
            print(
                f"nitro-lab: max_train_steps {self.config.max_train_steps} is not above disc_warmup_steps "
                f"{self.config.disc_warmup_steps}: only the heads are trained, the student stays as it is.",
                file=sys.stderr,
            )
        try:
            self._train()
        except KeyboardInterrupt:
            return _fail(f"interrupted. {self._how_to_resume()}", status=130)
        except FloatingPointError as error:
            return _fail(f"{error} The run is in {self.out}.")
        except (OSError, SafetensorError) as error:
            path = getattr(error, "filename", None) or self.out
            return _fail(f"{path} cannot be read or written ({error}). {self._how_to_resume()}")
        print(f"{self.config.max_train_steps} steps are done; raise --max-train-steps to continue.")
        print(f"{self.out} has the student, its samples and curves. To sample it:")
        print(f'  nitro-lab sample "{self.out}" "{_PROMPT}"')
        return 0

    def _train(self) -> None:
        from tqdm.auto import tqdm

        from nitro_lab.training.run import TrainingRun

        run = TrainingRun(self.config, self.out)
        further_process = os.environ.get("LOCAL_RANK", "0") != "0"  # one bar is enough for all processes
        losses: dict[str, float] = {}
        bar = tqdm(total=self.config.max_train_steps, initial=run.step, desc="train", disable=further_process)
        with bar, closing(run.steps()) as steps:
            for report in steps:
                losses["L_D"], losses["logit gap"] = report.disc_loss, float(report.logit_gaps.mean())
                if report.grad_norm:  # the student was updated
                    losses["L_G"] = report.student_loss
                bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
                bar.update()
                if report.step in run.samples:
                    _draw(run, report.step)

    def _how_to_resume(self) -> str:
        from nitro_lab.training.run import steps_done

        steps = steps_done(self.out)
        saved = f"has a checkpoint of {steps} steps" if steps else "has no checkpoint yet"
        return f"The run in {self.out} {saved}; the same command resumes it."


@dataclass(frozen=True)
class Sample:
    """Sample a model for some prompts: a column per prompt, a row per number of steps."""

    model: Positional[str]  # mini, mini-regressed, mini-teacher, nitrosd-realism, …, a run's or a model's folder
    prompts: Positional[tuple[str, ...]]  # each in quotes
    steps: tuple[int, ...] = (1,)  # numbers of inference steps
    guidance_scale: float = 0.0  # students need none; mini-teacher needs 3, and --steps 25
    seed: int = 0  # random seed of the noise
    out: Path = Path("sample.png")  # PNG file

    def __call__(self) -> int:
        from nitro_lab.models import load_pipeline
        from nitro_lab.plots.canvas import picture_grid
        from nitro_lab.sampling import format_steps, sample_image

        if not self.prompts:
            raise ValueError("prompts is empty; give one or more prompts, each in quotes.")
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps is {self.steps}; each must be at least 1.")
        pipe = load_pipeline(self.model)
        rows, remarks = {}, []
        for steps in self.steps:
            sampled = [sample_image(pipe, text, self.seed, steps, self.guidance_scale) for text in self.prompts]
            rows[format_steps(steps)] = [image for image, _ in sampled]
            remarks += [remark for _, several in sampled for remark in several]
        figure = picture_grid(rows, self.prompts)
        width = max(image.width for images in rows.values() for image in images)
        out = self.out.with_suffix(".png")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=max(150, width / 1.75))  # pictures at their own resolution
        print("\n".join(dict.fromkeys([*remarks, f"written to {out}"])))
        return 0


@dataclass(frozen=True)
class Evaluate:
    """Evaluate models of the miniature's world next to renders and the teacher."""

    models: Positional[tuple[str, ...]]  # mini, or folders in diffusers' layout or of runs
    unet: str | None = None  # a student's weights in place of the model's, a .safetensors file
    shifted_timestep: int | None = None  # in place of the model's
    steps: tuple[int, ...] = (1,)  # numbers of inference steps
    captions: Literal["held-out", "training", "all"] = "held-out"
    num_images: int = 512  # as in all tables: distances depend on it
    seed: int = 0  # random seed of captions and noise
    json: Annotated[Path | None, arg(metavar="FILE")] = None  # write the table here too

    def __call__(self) -> int:
        from nitro_lab.evaluation.table import evaluate_models, format_table, write_table

        if not self.models:
            raise ValueError("models is empty; give one or more, such as mini.")
        columns = evaluate_models(
            self.models, self.steps, self.unet, self.shifted_timestep, self.captions, self.num_images, self.seed
        )
        print(format_table(columns, self.num_images))
        if self.json:
            write_table(columns, self.json)
            print(f"written to {self.json}")
        return 0


_SDXL = DistillConfig(
    teacher="sdxl", student="lora", mixed_precision="bf16", gradient_checkpointing=True, view_by_view=True, batch_size=1
)


@dataclass(frozen=True)
class Memory:
    """Print what a training needs on a GPU, which is not needed for it. The options are those of `train`, but for out.

    Of the models, only the shape of the teacher's UNet counts.
    """

    config: Annotated[DistillConfig, arg(name="")] = _SDXL
    latent_size: int | None = None  # side of the latents, pixels / 8; default: the model's, 128 for SDXL

    def __call__(self) -> int:
        from nitro_lab.memory import CUDA_CONTEXT, cards_that_fit, training_memory

        uses = training_memory(self.config, self.latent_size)
        peak = sum(uses.values())
        for use, size in (uses | {"at the peak of a step": peak, "CUDA itself, about": CUDA_CONTEXT}).items():
            print(f"{size / 1e9:7.2f} GB  {use}")
        print(f"It fits cards of {', '.join(f'{card} GB' for card in cards_that_fit(peak)) or 'no usual size'}.")
        return 0


@dataclass(frozen=True)
class ExtractLora:
    """Write a student as a LoRA of its base, which diffusers and ComfyUI load, and the error of each layer as a PNG."""

    student: Positional[str]  # a model's name or folder, or a UNet's .safetensors file (path or owner/repo/file)
    base: str  # likewise; the LoRA is added to it
    rank: int = 64  # of each layer, at most
    kept_energy: float = 1.0  # lower ranks where they keep this fraction of the squared difference, such as 0.95
    out: Path = Path("build/lora.safetensors")

    def __call__(self) -> int:
        from nitro_lab.extraction import extract_lora
        from nitro_lab.plots.lora import plot_errors

        out = _safetensors(self.out)
        table = extract_lora(self.student, self.base, out, self.rank, self.kept_energy)
        plot_errors(table).savefig(out.with_suffix(".png"), dpi=150)
        in_lora, squares = table["rank"] > 0, table[["difference", "error"]] ** 2 / (table.difference**2).sum()
        kept, outside = 1 - squares.error.sum(), squares.difference[~in_lora].sum()
        print(
            f"{in_lora.sum()} layers with ranks up to {table['rank'].max()} hold {kept:.2%} of the squared difference."
        )
        print(f"{outside:.2%} of it is in biases and norms, which a LoRA cannot hold.")
        print(f"written to {out} and {out.with_suffix('.png')}")
        return 0


@dataclass(frozen=True)
class Transfer:
    """Add the difference of a student and its base to another model's UNet."""

    student: Positional[str]  # a model's name or folder, or a UNet's .safetensors file (path or owner/repo/file)
    base: str  # likewise: what the student was trained from
    other: str  # likewise: what the difference is added to
    out: Path = Path("build/transferred_unet.safetensors")

    def __call__(self) -> int:
        from nitro_lab.extraction import transfer

        out = _safetensors(self.out)
        transfer(self.student, self.base, self.other, out)
        print(f"written to {out}; load_pipeline(other, unet={str(out)!r}, shifted_timestep=…) loads it")
        return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; expected errors become one line. Returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # consoles of other encodings show "?" for what they lack
            stream.reconfigure(errors="replace")
    try:
        verb = tyro.cli(
            Train | Sample | Evaluate | Memory | ExtractLora | Transfer,
            prog="nitro-lab",
            description=__doc__,
            args=arguments,
        )
        return verb()
    except (ValueError, OSError, CheckpointError) as error:
        if not _is_for_users(error):
            raise
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted.", status=130)


def _is_for_users(error: Exception) -> bool:
    """Whether an error is about what the user gave: it names a file, or this package raised it itself."""
    *_, (frame, _line) = walk_tb(error.__traceback__)
    return bool(getattr(error, "filename", None)) or frame.f_globals["__name__"].startswith("nitro_lab.")


def _safetensors(out: Path) -> Path:
    if out.suffix != ".safetensors":
        raise ValueError(f"out is {out}; its name must end in .safetensors.")
    return out


def _fail(message: str, status: int = 1) -> int:
    """Print one line to stderr. Returns the exit status."""
    print(f"nitro-lab: {message}", file=sys.stderr)
    return status


def _draw(run: "TrainingRun", step: int) -> None:
    from nitro_lab.plots.canvas import picture_grid
    from nitro_lab.plots.training import training_curves

    rows = {"before training": run.samples[0], f"EMA student, step {step}": run.samples[step]}
    for steps in range(2, max(run.config.stages) + 1):
        rows[f"EMA student, step {step}, in {steps} steps"] = run.sample_images(steps)  # in all processes
    if not run.state.accelerator.is_main_process:
        return
    picture_grid(rows, run.sample_prompts).savefig(run.folder / f"samples-{step}.png")
    training_curves(run.table(), run.config.gan_loss).savefig(run.folder / "curves.png")
