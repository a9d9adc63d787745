"""Train the miniature, from nothing or from where it is, stage after stage, and write it down as a model folder."""

import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file, save_model

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.judge import JUDGE_FILE, Judge
from nitro_lab.mini.parts import PIPELINE_OPTIONS, make_scheduler, make_text_encoders, make_unet, make_vae
from nitro_lab.mini.recipes import Recipe
from nitro_lab.mini.teacher_cache import cache_teacher, load_pairs
from nitro_lab.mini.tokenizer import make_tokenizer
from nitro_lab.mini.train_judge import train_judge
from nitro_lab.mini.train_regressed import train_regressed
from nitro_lab.mini.train_teacher import train_teacher
from nitro_lab.mini.train_vae import train_vae
from nitro_lab.mini.training import Progress
from nitro_lab.randomness import seeded
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.snapshots import replace_file

STUDENT_FILE = "regressed_unet.safetensors"
STAGES = ("vae", "judge", "teacher", "cache", "regressed")


class Miniature:
    """All parts while they are trained, and where their snapshots are."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device):
        self.recipe = recipe
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.judge = seeded(recipe.seed, Judge).to(device)
        self.pipe = seeded(recipe.seed, make_pipeline).to(device)
        self.student = deepcopy(self.pipe.unet)
        if recipe.goes_on:
            self.reload(MODEL_FOLDER)

    def file(self, stage: str) -> Path:
        """The snapshot of a stage; it holds the losses too."""
        return self.folder / f"{stage}.safetensors"

    def train(self) -> Iterator[tuple[str, Progress]]:
        """Run the stages that the recipe gives steps; those that snapshots show to be done are only loaded.

        The student begins as the teacher. If the teacher stays as it was, the student goes on from where it was.
        Yields (stage, where it stands).
        """
        recipe, pipe = self.recipe, self.pipe
        if recipe.vae_steps:
            yield from self.timed("vae", train_vae(recipe, self.file("vae"), pipe.vae))
        if recipe.judge_steps:
            yield from self.timed("judge", train_judge(recipe, self.file("judge"), self.judge, pipe.vae))
        if recipe.teacher_steps:
            yield from self.timed("teacher", train_teacher(recipe, self.file("teacher"), pipe))
            self.student.load_state_dict(pipe.unet.state_dict())
        yield from self.timed("cache", cache_teacher(recipe, self.file("cache"), pipe))
        pairs = load_pairs(self.file("cache"), pipe.device)
        yield from self.timed("regressed", train_regressed(recipe, self.file("regressed"), pipe, self.student, pairs))

    def timed(self, stage: str, progress: Iterator[Progress]) -> Iterator[tuple[str, Progress]]:
        """Name every report of a stage, and note beside its snapshot how many seconds its steps took in all."""
        note = self.folder / f"{stage}.seconds"
        done = float(note.read_text()) if note.exists() else 0.0
        start = time.perf_counter()
        for report in progress:
            if report.step % min(25, self.recipe.save_every) == 0 or report.step == report.total:
                seconds = f"{done + time.perf_counter() - start:.1f}\n"
                replace_file(note, partial(Path.write_text, data=seconds))
            yield stage, report

    def student_pipe(self) -> StableDiffusionXLPipeline:
        """The pipeline with the regressed student and its scheduler; all else is shared."""
        scheduler = TimestepShiftLCMScheduler.from_config(
            self.pipe.scheduler.config, shifted_timestep=self.recipe.regressed_shift
        )
        parts = self.pipe.components | {"unet": self.student, "scheduler": scheduler}
        return StableDiffusionXLPipeline(**parts, **PIPELINE_OPTIONS)

    def seconds(self) -> dict[str, float]:
        """How long each stage took, over all runs; those that the recipe leaves out are not there."""
        notes = {stage: self.folder / f"{stage}.seconds" for stage in STAGES}
        return {stage: float(note.read_text()) for stage, note in notes.items() if note.exists()}

    def export(self, folder: Path) -> None:
        """Write the model folder: diffusers' layout, the judge and the student beside it, all in float16."""
        self.pipe.save_pretrained(folder, safe_serialization=True)
        save_model(self.judge, str(folder / JUDGE_FILE.name))
        save_model(self.student, str(folder / STUDENT_FILE))
        for file in folder.rglob("*.safetensors"):
            halve(file)

    def reload(self, folder: Path) -> None:
        """Take the weights of an exported folder in place of those that training left."""
        modules = {"unet": self.pipe.unet, "vae": self.pipe.vae}
        modules |= {name: getattr(self.pipe, name) for name in ("text_encoder", "text_encoder_2")}
        for name, module in modules.items():
            (file,) = (folder / name).glob("*.safetensors")
            module.load_state_dict(load_file(file))
            module.eval()
        self.pipe.vae.register_to_config(scaling_factor=AutoencoderKL.load_config(folder / "vae")["scaling_factor"])
        self.judge.eval().load_state_dict(load_file(folder / JUDGE_FILE.name))
        self.student.load_state_dict(load_file(folder / STUDENT_FILE))


def make_pipeline() -> StableDiffusionXLPipeline:
    """The untrained pipeline."""
    tokenizer = make_tokenizer()
    text_encoder, text_encoder_2 = make_text_encoders(tokenizer)
    return StableDiffusionXLPipeline(
        vae=make_vae(),
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=make_tokenizer(),
        unet=make_unet(),
        scheduler=make_scheduler(),
        **PIPELINE_OPTIONS,
    )


def halve(file: Path) -> None:
    """Rewrite a safetensors file in float16; integers stay as they are."""
    weights = {key: value.half() if value.is_floating_point() else value for key, value in load_file(file).items()}
    save_file({key: value.contiguous() for key, value in weights.items()}, file, metadata={"format": "pt"})
