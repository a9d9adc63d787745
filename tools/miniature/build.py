"""Trains the miniature, from scratch or from the installed weights, stage after stage, and exports a model folder."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file, save_model

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.classifier import CLASSIFIER_FILE, SceneClassifier
from nitro_lab.mini.tokenizer import make_tokenizer
from nitro_lab.randomness import seeded
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from tools.miniature.optimization import Progress
from tools.miniature.parts import PIPELINE_OPTIONS, make_scheduler, make_text_encoders, make_unet, make_vae
from tools.miniature.recipes import Recipe
from tools.miniature.stages import train_classifier, train_regressed, train_teacher, train_vae
from tools.miniature.teacher_cache import cache_teacher, load_pairs

__all__ = ["STAGES", "Miniature"]

STAGES = ("vae", "classifier", "teacher", "cache", "regressed")
_STUDENT_FILE = "regressed_unet.safetensors"


class Miniature:
    """All parts while they are trained, and the folder of their checkpoints."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device):
        self.recipe = recipe
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.classifier = seeded(recipe.seed, SceneClassifier).to(device)
        self.pipe = seeded(recipe.seed, _make_pipeline).to(device)
        self.student = deepcopy(self.pipe.unet)
        if recipe.from_installed:
            self.reload(MODEL_FOLDER)

    def file(self, stage: str) -> Path:
        """Return the checkpoint file of a stage, which contains its losses and seconds too."""
        return self.folder / f"{stage}.safetensors"

    def train(self) -> Iterator[tuple[str, Progress]]:
        """Run the stages that have steps in the recipe; complete stages are loaded. Yields (stage, progress).

        The student starts as a copy of a newly trained teacher, and otherwise from its own installed weights.
        """
        recipe, pipe, student = self.recipe, self.pipe, self.student
        files = {stage: self.file(stage) for stage in STAGES}
        if recipe.vae_steps:
            yield from (("vae", x) for x in train_vae(recipe, files["vae"], pipe.vae))
        if recipe.classifier_steps:
            classifier, file = self.classifier, files["classifier"]
            yield from (("classifier", x) for x in train_classifier(recipe, file, classifier, pipe.vae))
        if recipe.teacher_steps:
            yield from (("teacher", x) for x in train_teacher(recipe, files["teacher"], pipe))
            student.load_state_dict(pipe.unet.state_dict())
        yield from (("cache", x) for x in cache_teacher(recipe, files["cache"], pipe))
        pairs = load_pairs(files["cache"], pipe.device)
        yield from (("regressed", x) for x in train_regressed(recipe, files["regressed"], pipe, student, pairs))

    def student_pipe(self) -> StableDiffusionXLPipeline:
        """Return the pipeline with the regressed student and its scheduler; it shares all other parts."""
        shift = self.recipe.regressed_shift
        scheduler = TimestepShiftLCMScheduler.from_config(self.pipe.scheduler.config, shifted_timestep=shift)
        parts = self.pipe.components | {"unet": self.student, "scheduler": scheduler}
        return StableDiffusionXLPipeline(**parts, **PIPELINE_OPTIONS)

    def seconds(self) -> dict[str, float]:
        """Return the seconds that the steps of each stage took; stages that the recipe leaves out are missing."""
        files = {stage: self.file(stage) for stage in STAGES if self.file(stage).exists()}
        return {stage: round(load_file(file)["seconds/value"].sum().item(), 1) for stage, file in files.items()}

    def export(self, folder: Path) -> None:
        """Write the model folder: diffusers' layout, the classifier and the student beside it, all in float16."""
        self.pipe.save_pretrained(folder, safe_serialization=True)
        save_model(self.classifier, str(folder / CLASSIFIER_FILE.name))
        save_model(self.student, str(folder / _STUDENT_FILE))
        for file in folder.rglob("*.safetensors"):
            weights = {key: x.half() if x.is_floating_point() else x for key, x in load_file(file).items()}
            save_file({key: value.contiguous() for key, value in weights.items()}, file, metadata={"format": "pt"})

    def reload(self, folder: Path) -> None:
        """Replace all weights by those of an exported folder."""
        for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
            (file,) = (folder / name).glob("*.safetensors")
            self.pipe.components[name].eval().load_state_dict(load_file(file))
        self.pipe.vae.register_to_config(scaling_factor=AutoencoderKL.load_config(folder / "vae")["scaling_factor"])
        self.classifier.eval().load_state_dict(load_file(folder / CLASSIFIER_FILE.name))
        self.student.load_state_dict(load_file(folder / _STUDENT_FILE))


def _make_pipeline() -> StableDiffusionXLPipeline:
    """Make the untrained pipeline."""
    tokenizer = make_tokenizer()
    text_encoder, text_encoder_2 = make_text_encoders(tokenizer)
    parts = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2, "vae": make_vae(), "unet": make_unet()}
    tokenizers = {"tokenizer": tokenizer, "tokenizer_2": make_tokenizer()}
    return StableDiffusionXLPipeline(**parts, **tokenizers, scheduler=make_scheduler(), **PIPELINE_OPTIONS)
