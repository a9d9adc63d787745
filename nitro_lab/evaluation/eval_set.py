"""The evaluation set: the same captions, initial noise and references for every model of the miniature's world."""

import hashlib
from dataclasses import dataclass, replace

import torch
from diffusers import StableDiffusionXLPipeline as Pipeline
from platformdirs import user_cache_path
from torch import Tensor

from nitro_lab.checkpoint import hash_of, pipeline_hashes, read_or_make
from nitro_lab.evaluation import metrics
from nitro_lab.evaluation.two_sample import told_apart
from nitro_lab.integers import integer
from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, all_scenes, caption, split_scenes
from nitro_lab.sampling import decode, encode, latent_shape, sample_latents

__all__ = [
    "FEW_TEACHER_STEPS",
    "NUM_IMAGES",
    "TEACHER_GUIDANCE",
    "TEACHER_STEPS",
    "EvalSet",
    "compute_metrics",
    "make_eval_set",
    "render_again",
    "sample_eval_set",
    "sample_eval_set_cached",
    "through_vae",
    "with_teacher",
]

TEACHER_STEPS = 25
FEW_TEACHER_STEPS = (4, 8, 16)  # what a student should be cheaper than
TEACHER_GUIDANCE = 3.0
NUM_IMAGES = 512  # for all tables: distances depend on it; no held-out caption (960) comes twice


@dataclass(frozen=True)
class EvalSet:
    """Captions, initial noise and references of N images.

    scenes: (N, 6), the expected factors; x_T: (N, C, H, W); reference_features: (N, D), the classifier's features of
    renders of the same scenes after the autoencoder; random_features: (N, 72), of those renders; reference_sharpness:
    of those renders; teacher_images: (N, 3, H, W), see `with_teacher`.
    """

    scenes: Tensor
    x_T: Tensor  # noqa: N815 (the paper's symbol)
    reference_features: Tensor
    random_features: Tensor
    reference_sharpness: float
    classifier: SceneClassifier
    teacher_images: Tensor | None = None

    @property
    def prompts(self) -> list[str]:
        """The captions, one for each image."""
        return [caption(scene) for scene in self.scenes]


def make_eval_set(
    pipe: Pipeline, classifier: SceneClassifier, captions: str = "held-out", num_images: int = NUM_IMAGES, seed: int = 0
) -> EvalSet:
    """Choose captions ("held-out", "training" or "all", else a ValueError) and noise, and render the references.

    Each caption of the set comes once before any is repeated.
    """
    training, held_out = split_scenes()
    scene_sets = {"held-out": held_out, "training": training, "all": all_scenes()}
    if captions not in scene_sets:
        raise ValueError(f"captions is {captions!r}; choose from {', '.join(scene_sets)}.")
    scenes = scene_sets[captions]
    generator = torch.Generator().manual_seed(integer("seed", seed))  # on the CPU: the same set on every device
    order = [torch.randperm(len(scenes), generator=generator) for _ in range(0, num_images, len(scenes))]
    scenes = scenes[torch.cat(order)[:num_images]]
    x_T = torch.randn((num_images, *latent_shape(pipe)), generator=generator)
    renders = through_vae(pipe, render(scenes, generator))
    features = classifier.predict(renders.float()).features
    sharpness, detail = metrics.sharpness(renders), metrics.random_features(renders)
    device = pipe._execution_device  # `pipe.device` is the CPU for one that is offloaded
    return EvalSet(scenes.to(device), x_T.to(device), features, detail, sharpness, classifier)


def through_vae(pipe: Pipeline, images: Tensor) -> Tensor:
    """Encode and decode images (N, 3, 64, 64), since no model can be sharper than its autoencoder."""
    return decode(pipe, encode(pipe, images))


def render_again(eval_set: EvalSet, pipe: Pipeline, seed: int = 0) -> Tensor:
    """Render the same scenes differently: what a perfect model would generate."""
    return through_vae(pipe, render(eval_set.scenes, torch.Generator().manual_seed(integer("seed", seed) + 1)))


def sample_eval_set(
    eval_set: EvalSet,
    pipe: Pipeline,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    seed: int = 0,
    progress: str | None = None,
) -> Tensor:
    """Sample a model for all captions. (N, 3, 64, 64) in [-1, 1]; for the arguments see `sample_latents`."""
    prompts, x_T, steps = eval_set.prompts, eval_set.x_T, num_inference_steps
    return decode(pipe, sample_latents(pipe, prompts, x_T, steps, guidance_scale, seed=seed, progress=progress))


def sample_eval_set_cached(
    eval_set: EvalSet,
    pipe: Pipeline,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    progress: str | None = None,
) -> Tensor:
    """As `sample_eval_set`, for slow and deterministic teachers: the latents are kept in the user's cache folder."""
    prompts, x_T = eval_set.prompts, eval_set.x_T
    noise = hashlib.blake2b(x_T.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    settings: dict[str, object] = {"model": pipeline_hashes(pipe), "noise": noise, "steps": num_inference_steps}
    settings["guidance"] = guidance_scale  # with the prompts, all that the latents depend on
    path = user_cache_path("nitro-lab") / f"eval-{hash_of(settings, prompts)}.safetensors"
    arguments = pipe, prompts, x_T, num_inference_steps, guidance_scale
    return decode(pipe, read_or_make(path, lambda: {"x0": sample_latents(*arguments, progress=progress)})["x0"])


def with_teacher(eval_set: EvalSet, pipe: Pipeline, progress: str | None = None) -> EvalSet:
    """Add the teacher's images, which the metric "told_apart" needs; minutes at first, then from the cache folder."""
    images = sample_eval_set_cached(eval_set, pipe, TEACHER_STEPS, TEACHER_GUIDANCE, progress)
    return replace(eval_set, teacher_images=images)


def compute_metrics(eval_set: EvalSet, images: Tensor) -> dict[str, float]:
    """Compute all metrics of N images (N, 3, 64, 64); all are NaN if the images have NaN or infinite values.

    With the teacher's images in the evaluation set, the first is "told_apart" (see `nitro_lab.evaluation.two_sample`, a
    fraction), and "told_apart_half" is half of its interval. Then fractions of the images: each factor as expected, all
    six ("all"), more than one object ("repetition"). Then "FD", the Fréchet distance to the reference in the
    classifier's features, "FD (random)", in random features, and "sharpness", as a ratio to the reference's.
    """
    finite = bool(images.isfinite().all())
    apart = {}
    if eval_set.teacher_images is not None:
        groups = eval_set.scenes.unique(dim=0, return_inverse=True)[1]
        values = told_apart(eval_set.teacher_images, images, groups) if finite else (float("nan"),) * 2
        apart = dict(zip(("told_apart", "told_apart_half"), values, strict=True))
    if not finite:
        return apart | dict.fromkeys([*FACTORS, "all", "repetition", "FD", "FD (random)", "sharpness"], float("nan"))
    prediction = eval_set.classifier.predict(images.float())
    expected = eval_set.scenes.to(prediction.factors.device)
    return {
        **apart,
        **metrics.factor_accuracy(prediction.factors, expected, tuple(FACTORS)),
        "repetition": metrics.repetition_rate(prediction.counts),
        "FD": metrics.frechet_distance(eval_set.reference_features, prediction.features),
        "FD (random)": metrics.frechet_distance(eval_set.random_features, metrics.random_features(images)),
        "sharpness": metrics.sharpness(images) / eval_set.reference_sharpness,
    }
