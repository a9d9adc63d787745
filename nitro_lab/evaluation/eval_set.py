"""The evaluation set: the same captions, initial noise and references for every model of the miniature's world."""

import hashlib
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import StableDiffusionXLPipeline
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file

from nitro_lab.checkpoint import atomic_write, hash_of, pipeline_hashes
from nitro_lab.evaluation import metrics
from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, all_scenes, caption, split_scenes
from nitro_lab.sampling import decode, encode, latent_shape, sample_latents

__all__ = [
    "EvalSet",
    "compute_metrics",
    "make_eval_set",
    "render_again",
    "sample_eval_set",
    "sample_eval_set_cached",
    "through_vae",
]


@dataclass(frozen=True)
class EvalSet:
    """Captions, initial noise and references of N images.

    scenes: (N, 6), the expected factors; x_T: (N, C, H, W); reference_features: (N, D), the classifier's features of
    renders of the same scenes after the autoencoder; reference_sharpness: of those renders.
    """

    scenes: torch.Tensor
    x_T: torch.Tensor  # noqa: N815 (the paper's symbol)
    reference_features: torch.Tensor
    reference_sharpness: float
    classifier: SceneClassifier

    @property
    def prompts(self) -> list[str]:
        """The captions, one for each image."""
        return [caption(scene) for scene in self.scenes]


def make_eval_set(
    pipe: StableDiffusionXLPipeline,
    classifier: SceneClassifier,
    captions: str = "held-out",
    num_images: int = 1000,
    seed: int = 0,
) -> EvalSet:
    """Choose captions ("held-out", "training" or "all", else a ValueError) and noise, and render the references.

    Each caption of the set comes once before any is repeated.
    """
    training, held_out = split_scenes()
    scene_sets = {"held-out": held_out, "training": training, "all": all_scenes()}
    if captions not in scene_sets:
        raise ValueError(f"captions is {captions!r}; choose from {', '.join(scene_sets)}.")
    scenes = scene_sets[captions]
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same set on every device
    order = [torch.randperm(len(scenes), generator=generator) for _ in range(0, num_images, len(scenes))]
    scenes = scenes[torch.cat(order)[:num_images]]
    x_T = torch.randn((num_images, *latent_shape(pipe)), generator=generator)
    renders = through_vae(pipe, render(scenes, generator))
    features = classifier.predict(renders.float()).features
    return EvalSet(scenes.to(pipe.device), x_T.to(pipe.device), features, metrics.sharpness(renders), classifier)


def through_vae(pipe: StableDiffusionXLPipeline, images: torch.Tensor) -> torch.Tensor:
    """Encode and decode images (N, 3, 64, 64), since no model can be sharper than its autoencoder."""
    return decode(pipe, encode(pipe, images.to(pipe.device, pipe.vae.dtype)))


def render_again(eval_set: EvalSet, pipe: StableDiffusionXLPipeline, seed: int = 0) -> torch.Tensor:
    """Render the same scenes differently: what a perfect model would generate."""
    return through_vae(pipe, render(eval_set.scenes, torch.Generator().manual_seed(seed + 1)))


def sample_eval_set(
    eval_set: EvalSet,
    pipe: StableDiffusionXLPipeline,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    seed: int = 0,
    progress: str | None = None,
) -> torch.Tensor:
    """Sample a model for all captions. (N, 3, 64, 64) in [-1, 1]; for the arguments see `sample_latents`."""
    prompts, x_T, steps = eval_set.prompts, eval_set.x_T, num_inference_steps
    return decode(pipe, sample_latents(pipe, prompts, x_T, steps, guidance_scale, seed=seed, progress=progress))


def sample_eval_set_cached(
    eval_set: EvalSet,
    pipe: StableDiffusionXLPipeline,
    num_inference_steps: int,
    guidance_scale: float = 0.0,
    progress: str | None = None,
) -> torch.Tensor:
    """As `sample_eval_set`, for slow and deterministic teachers: the latents are kept in the user's cache folder."""
    prompts, x_T = eval_set.prompts, eval_set.x_T
    noise = hashlib.blake2b(x_T.cpu().numpy().tobytes(), digest_size=8).hexdigest()
    model = pipeline_hashes(pipe)
    settings = {"model": model, "noise": noise, "steps": num_inference_steps, "guidance": guidance_scale}
    # named by a hash of all that the latents depend on
    path = user_cache_path("nitro-lab") / f"eval-{hash_of(settings, prompts)}.safetensors"
    if not path.exists():
        x0 = sample_latents(pipe, prompts, x_T, num_inference_steps, guidance_scale, progress=progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, partial(save_file, {"x0": x0.contiguous()}))
    return decode(pipe, load_file(path, device=str(pipe.device))["x0"])


def compute_metrics(eval_set: EvalSet, images: torch.Tensor) -> dict[str, float]:
    """Compute all metrics of N images (N, 3, 64, 64); all are NaN if the images have NaN or infinite values.

    Fractions: each factor as expected, all six ("all"), more than one object ("repetition"), precision, recall,
    coverage; distances to the reference: "FD", "KID"; "density"; "sharpness" as a ratio to the reference's.
    """
    if not images.isfinite().all():
        others = ["repetition", "FD", "KID", "precision", "recall", "density", "coverage", "sharpness"]
        return dict.fromkeys([*FACTORS, "all", *others], float("nan"))
    prediction = eval_set.classifier.predict(images.float())
    reference, features = eval_set.reference_features, prediction.features
    expected = eval_set.scenes.to(features.device)
    return {
        **metrics.factor_accuracy(prediction.factors, expected, tuple(FACTORS)),
        "repetition": metrics.repetition_rate(prediction.counts),
        "FD": metrics.frechet_distance(reference, features),
        "KID": metrics.kernel_distance(reference, features),
        **metrics.precision_recall(reference, features),
        "sharpness": metrics.sharpness(images) / eval_set.reference_sharpness,
    }
