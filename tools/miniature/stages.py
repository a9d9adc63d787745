"""The four trained stages: autoencoder, scene classifier, teacher, regressed student."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nitro_lab.mini.classifier import MAX_OBJECTS, SceneClassifier
from nitro_lab.mini.render import render
from nitro_lab.mini.world import FACTORS, caption, sample_scenes, split_scenes
from nitro_lab.sampling import STEP_SAMPLERS, encode, encode_prompts, predict_noise, x0_from_eps
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from tools.miniature.optimization import Progress, train_stage
from tools.miniature.recipes import Recipe

__all__ = ["COPIES_PROB", "EMPTY_PROB", "PARTIAL_PROB", "Pairs", "classifier_loss", "sample_captions", "sample_counts"]
__all__ += ["train_classifier", "train_regressed", "train_teacher", "train_vae"]

Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
COPIES_PROB = 0.3  # of copies of the object in an image for the classifier
EMPTY_PROB = 0.1  # of an empty caption, for guidance
PARTIAL_PROB = 0.15  # of a caption that leaves factors out, so that the teacher understands "a red star"
_OMIT_PROB = 0.4  # of leaving a factor out of such a caption
_SINGLE_ONLY = ("size", "place")  # undefined in images with copies
_MAX_SNR = 5.0
_MAX_WEIGHT = 20.0


def train_vae(recipe: Recipe, path: Path, vae: AutoencoderKL) -> Iterator[Progress]:
    """Minimize the squared error of decoded images plus a small KL term, which keeps latents near unit variance."""
    vae.to(memory_format=torch.channels_last)
    generator = torch.Generator(vae.device).manual_seed(recipe.seed)
    scenes, _ = split_scenes()

    def batch_loss() -> torch.Tensor:
        images = render(sample_scenes(scenes, recipe.vae_batch_size, generator), generator)
        posterior = vae.encode(images.contiguous(memory_format=torch.channels_last)).latent_dist
        latents = posterior.sample(generator)
        error = F.mse_loss(vae.decode(latents).sample, images)
        return error + recipe.vae_kl_weight * (posterior.kl().mean() / latents[0].numel())

    yield from train_stage(recipe, "vae", path, vae, generator, batch_loss)
    batches = render(sample_scenes(scenes, 1024, generator), generator).split(64)
    with torch.no_grad():
        std = torch.cat([vae.encode(batch).latent_dist.mode() for batch in batches]).std().item()
    vae.register_to_config(scaling_factor=1 / std)


def train_classifier(recipe: Recipe, path: Path, classifier: SceneClassifier, vae: AutoencoderKL) -> Iterator[Progress]:
    """Minimize the cross-entropies of all outputs, on renders, half of them decoded by the autoencoder."""
    classifier = classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    generator = torch.Generator(vae.device).manual_seed(recipe.seed + 1)
    scenes, _ = split_scenes()
    size = recipe.classifier_batch_size

    def batch_loss() -> torch.Tensor:
        batch = sample_scenes(scenes, size, generator)
        counts = sample_counts(size, generator)
        images = render(batch, generator, counts)
        with torch.no_grad():
            decoded = vae.decode(vae.encode(images[: size // 2]).latent_dist.mode()).sample
        images = torch.cat([decoded.clamp(-1, 1), images[size // 2 :]])
        logits, _ = classifier(images.contiguous(memory_format=torch.channels_last))
        return classifier_loss(logits, batch, counts)

    yield from train_stage(recipe, "classifier", path, classifier, generator, batch_loss)
    _scale_features(classifier, render(sample_scenes(scenes, 1024, generator), generator))


def sample_counts(count: int, generator: torch.Generator) -> torch.Tensor:
    """Sample (count,) numbers of objects, most of them 1."""
    more = torch.randint(2, MAX_OBJECTS + 1, (count,), generator=generator, device=generator.device)
    repeated = torch.rand(count, generator=generator, device=generator.device) < COPIES_PROB
    return torch.where(repeated, more, 1)


def classifier_loss(logits: dict[str, torch.Tensor], scenes: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sum the cross-entropies of all outputs; size and place only count for images with one object."""
    single = counts == 1
    total = F.cross_entropy(logits["count"], counts - 1)
    for name, expected in zip(FACTORS, scenes.unbind(1), strict=True):
        rows = single if name in _SINGLE_ONLY else torch.ones_like(single)
        total = total + F.cross_entropy(logits[name][rows], expected[rows])
    return total


@torch.no_grad()
def _scale_features(classifier: SceneClassifier, images: torch.Tensor) -> None:
    """Scale the features to unit mean variance on these images, for readable distances, without changing any output.

    The outputs are linear after a ReLU, so a positive factor can move from the features into their weights.
    """
    std = classifier.predict(images).features.var(0).mean().sqrt()
    classifier.hidden.weight.div_(std)
    classifier.hidden.bias.div_(std)
    for output in classifier.outputs.values():
        output.weight.mul_(std)  # type: ignore[operator]  # a linear layer's weight


def train_teacher(recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline) -> Iterator[Progress]:
    """Minimize the weighted error of the noise predicted by text encoders and UNet; the result is their EMA."""
    device = pipe.unet.device
    trained = nn.ModuleDict({name: getattr(pipe, name) for name in ("text_encoder", "text_encoder_2", "unet")}).train()
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(recipe.teacher_ema_decay))
    generator = torch.Generator(device).manual_seed(recipe.seed + 2)
    forward_process = DDPMScheduler.from_config(pipe.scheduler.config)
    scenes, _ = split_scenes()

    def batch_loss() -> torch.Tensor:
        batch = sample_scenes(scenes, recipe.teacher_batch_size, generator)
        latents = encode(pipe, render(batch, generator))
        embeds = encode_prompts(pipe, sample_captions(batch, generator))
        noise = torch.randn(latents.shape, generator=generator, device=device)
        t = torch.randint(1000, (len(batch),), generator=generator, device=device)
        eps = predict_noise(pipe.unet, forward_process.add_noise(latents, noise, t), t, embeds)
        return ((eps - noise).square().mean((1, 2, 3)) * _loss_weight(compute_snr(forward_process, t))).mean()

    yield from train_stage(recipe, "teacher", path, trained, generator, batch_loss, average)
    trained.load_state_dict(average.module.state_dict())


def _loss_weight(snr: torch.Tensor) -> torch.Tensor:
    """Weight of the squared error of ε at a signal-to-noise ratio, (B,).

    As a weight of x0 it is min(SNR + 1, 5): v-prediction with the cap of min-SNR-5 (Hang et al. 2023). Plain min-SNR
    gives almost pure noise the weight SNR; there the layout is decided, which only the caption determines, and such a
    teacher ignores the words for place. `_MAX_WEIGHT` keeps those few t from dominating the gradient.
    """
    return ((snr + 1).clamp(max=_MAX_SNR) / snr).clamp(max=_MAX_WEIGHT)


def sample_captions(scenes: torch.Tensor, generator: torch.Generator) -> list[str]:
    """Describe scenes (B, 6): most captions are complete, some leave factors out, some are empty."""
    kind = torch.rand(len(scenes), generator=generator, device=generator.device).cpu()
    kept = torch.rand(len(scenes), len(FACTORS), generator=generator, device=generator.device).cpu() > _OMIT_PROB
    kept |= (kind > EMPTY_PROB + PARTIAL_PROB)[:, None]
    rows = zip(kind.tolist(), scenes.cpu(), kept, strict=True)
    return ["" if value < EMPTY_PROB else caption(scene, mentioned) for value, scene, mentioned in rows]


def train_regressed(
    recipe: Recipe, path: Path, pipe: StableDiffusionXLPipeline, student: UNet2DConditionModel, pairs: Pairs
) -> Iterator[Progress]:
    """Minimize the squared error of x0, predicted from x_T or from a later noise level at the shifted timestep.

    About half of the batches train one-step inference, from x_T. The others train a later step of a longer schedule,
    from the teacher's x0 with fresh noise, so that the student knows every timestep that adversarial training may use.
    `pairs` are scenes (N, 6), x_T and the teacher's x0 (N, 4, 16, 16); the text encoders of `pipe` are not trained.
    """
    scenes, x_T, x0 = pairs
    scheduler = TimestepShiftLCMScheduler.from_config(pipe.scheduler.config, shifted_timestep=recipe.regressed_shift)
    with torch.no_grad():
        embeds = encode_prompts(pipe, [caption(scene) for scene in scenes])
    generator = torch.Generator(x_T.device).manual_seed(recipe.seed + 4)

    def batch_loss() -> torch.Tensor:
        rows = torch.randint(len(x_T), (recipe.regressed_batch_size,), generator=generator, device=x_T.device)
        student_step = STEP_SAMPLERS["any_schedule"](recipe.regressed_max_steps, generator)
        scheduler.set_timesteps(student_step.num_inference_steps)
        timestep = scheduler.timesteps[student_step.k - 1]
        latents = x_T[rows]
        if student_step.k > 1:
            fresh = torch.randn(latents.shape, generator=generator, device=x_T.device)
            latents = scheduler.add_noise(x0[rows], fresh, timestep.expand(len(rows)))
        eps = predict_noise(student, latents, timestep, embeds[rows])
        return F.mse_loss(x0_from_eps(scheduler.alphas_cumprod, latents, eps, timestep), x0[rows])

    yield from train_stage(recipe, "regressed", path, student, generator, batch_loss)
