"""The exam that every model of the world sits: the same held-out captions, the same noise, the same judge."""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import StableDiffusionXLPipeline
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file

from nitro_lab.evaluate import (
    caption_accuracy,
    frechet_distance,
    kernel_distance,
    manifold_scores,
    repetition_rate,
    sharpness,
)
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, all_scenes, caption, split_scenes
from nitro_lab.sampling import decode, encode, generate, latent_shape
from nitro_lab.snapshots import replace_file
from nitro_lab.teacher_samples import describe, key_of

CAPTION_SETS = ("held-out", "training", "all")


@dataclass(frozen=True)
class Exam:
    """Questions and reference answers for N images.

    scenes: (N, 6), what each caption asks for; noise: (N, C, H, W), x_T of each; reference: (N, D), the judge's
    features of renders of the same scenes, through the autoencoder; sharpness: of those renders.
    """

    scenes: torch.Tensor
    noise: torch.Tensor
    reference: torch.Tensor
    sharpness: float
    judge: Judge

    @property
    def prompts(self) -> list[str]:
        """The captions, one for each image."""
        return [caption(scene) for scene in self.scenes]


def set_exam(
    pipe: StableDiffusionXLPipeline, judge: Judge, captions: str = "held-out", images: int = 1000, seed: int = 0
) -> Exam:
    """Draw the captions, the noise and the reference pictures.

    Captions are dealt out in random order and each once before any comes again.

    Raises:
        ValueError: if `captions` is no caption set.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same exam on every device
    scenes = choose_scenes(captions)
    rounds = -(-images // len(scenes))
    order = [torch.randperm(len(scenes), generator=generator) for _ in range(rounds)]
    asked = scenes[torch.cat(order)[:images]]
    noise = torch.randn((images, *latent_shape(pipe)), generator=generator)
    pictures = through_vae(pipe, render(asked, generator))
    asked, noise = asked.to(pipe.device), noise.to(pipe.device)
    return Exam(asked, noise, judge.look(pictures.float()).features, sharpness(pictures), judge)


def choose_scenes(captions: str) -> torch.Tensor:
    """(N, 6) scenes of a caption set."""
    if captions not in CAPTION_SETS:
        raise ValueError(f"captions is {captions!r}; it must be one of {', '.join(CAPTION_SETS)}.")
    training, held_out = split_scenes()
    return {"held-out": held_out, "training": training, "all": all_scenes()}[captions]


def through_vae(pipe: StableDiffusionXLPipeline, images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, 64, 64), encoded and decoded, since no model can be sharper than its autoencoder."""
    return decode(pipe, encode(pipe, images.to(pipe.device, pipe.vae.dtype)))


def fresh_renders(exam: Exam, pipe: StableDiffusionXLPipeline, seed: int = 0) -> torch.Tensor:
    """Other pictures of the same scenes than the reference: what a perfect model would make."""
    return through_vae(pipe, render(exam.scenes, torch.Generator().manual_seed(seed + 1)))


def sit(
    exam: Exam,
    pipe: StableDiffusionXLPipeline,
    steps: int,
    guidance: float = 0.0,
    seed: int = 0,
    title: str | None = None,
) -> torch.Tensor:
    """Let a model make its images for all captions. (N, 3, 64, 64) in [-1, 1]."""
    return decode(pipe, generate(pipe, exam.prompts, exam.noise, steps, guidance, seed=seed, title=title))


def sit_once(exam: Exam, pipe: StableDiffusionXLPipeline, steps: int, guidance: float, title: str) -> torch.Tensor:
    """As `sit`, and kept in the user's cache folder: a slow teacher sits the same exam once on a machine.

    For samplers that throw no dice on their way. The file's name is a hash of all that decides the latents, the model's
    weights among it.
    """
    noise = hashlib.blake2b(exam.noise.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    settings = {"model": describe(pipe), "noise": noise, "steps": steps, "guidance": guidance}
    path = user_cache_path("nitro-lab") / f"exam-{key_of(settings, exam.prompts)}.safetensors"
    if not path.exists():
        drawn = generate(pipe, exam.prompts, exam.noise, steps, guidance, title=title)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, partial(save_file, {"x0": drawn.contiguous()}))
    return decode(pipe, load_file(path, device=str(pipe.device))["x0"])


def mark(exam: Exam, images: torch.Tensor) -> dict[str, float]:
    """All marks of N images (N, 3, 64, 64).

    Shares: each factor as asked, all six ("all"), more than one object ("repetition"), precision, recall, coverage;
    distances to the reference: "FD", "KID"; "density"; "sharpness" as a ratio to the reference's.
    """
    verdict = exam.judge.look(images.float())
    marks = caption_accuracy(verdict.factors, exam.scenes, tuple(FACTORS))
    marks["repetition"] = repetition_rate(verdict.counts)
    marks["FD"] = frechet_distance(exam.reference, verdict.features)
    marks["KID"] = kernel_distance(exam.reference, verdict.features)
    marks |= manifold_scores(exam.reference, verdict.features)
    marks["sharpness"] = sharpness(images) / exam.sharpness
    return marks
