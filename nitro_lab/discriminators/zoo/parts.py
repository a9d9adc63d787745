"""Parts of a training, besides heads, that the zoo and notebooks use: backbones, laws of t*, losses, negatives."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Generator, Tensor, nn

from nitro_lab.backbones import Backbone, FrozenUNetEncoder, FrozenVision
from nitro_lab.discriminators.inputs import as_list
from nitro_lab.discriminators.losses import GANBatch, GANLoss
from nitro_lab.discriminators.selection import TStarLaw
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.randomness import seeded
from nitro_lab.sampling import PromptEmbeds

__all__ = [
    "Clean",
    "CrossLevelMixing",
    "feature_matching",
    "label_smoothing",
    "logit_normal",
    "mismatched_captions",
    "scene_classifier",
    "uniform",
    "untrained",
    "whole_unet",
]


def whole_unet(pipe: StableDiffusionXLPipeline) -> Backbone:
    """The teacher's whole UNet: levels 0 to 9 are those of its encoder and mid block, 10 to 12 its decoder's blocks."""
    return FrozenUNetEncoder(pipe.unet, decoder=True)


def untrained(pipe: StableDiffusionXLPipeline) -> Backbone:
    """The teacher's encoder with random weights: what do features owe to its training?"""
    unet = seeded(0, lambda: UNet2DConditionModel.from_config(pipe.unet.config))
    return FrozenUNetEncoder(unet.to(pipe.unet.device))


def scene_classifier(pipe: StableDiffusionXLPipeline) -> Backbone:
    """The miniature's scene classifier on decoded pixels, in place of DINO or CLIP; four levels of sides 32 to 4.

    Metrics in the classifier's own features flatter students that were trained with it.
    """
    network = load_scene_classifier(pipe.vae.device)
    return FrozenVision(pipe.vae, network, [f"stages.{index}" for index in (1, 2, 3, 4)], size=16)


class Clean(Backbone):
    """A backbone that sees clean latents, whatever timesteps it gets."""

    noisy = False

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, self.channels = backbone, backbone.channels

    def forward(self, latents: Tensor, timestep: Tensor, embeds: PromptEmbeds) -> list[Tensor]:
        """Return the backbone's features [(B, C_l, h_l, w_l)] of clean latents (B, C, h, w)."""
        return self.backbone(latents, timestep, embeds)


class CrossLevelMixing(Backbone):
    """Frozen random projections of some levels: cross-channel, then cross-scale (Projected GAN, section 3.2).

    Each level goes through a random 1×1 convolution to `width` channels; then, from the coarsest on, the running sum is
    upsampled by 2, projected by another one, and added to the next finer level.

    Args:
        backbone: whose features are mixed.
        levels: of the backbone, from fine to coarse, each of half the side of the one before.
        width: channels of all mixed levels.
        seed: of the random weights.
    """

    def __init__(self, backbone: Backbone, levels: Sequence[int] = (2, 5, 9), width: int = 64, seed: int = 0):
        super().__init__()
        self.backbone, self.levels, self.noisy = backbone, tuple(levels), backbone.noisy
        widths = [backbone.channels[level] for level in levels]
        device = next(backbone.buffers()).device

        def projections(inputs: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in inputs).to(device)

        self.channel_mixing = seeded(seed, lambda: projections(widths))
        self.scale_mixing = seeded(seed + 1, lambda: projections([width] * len(widths)))
        self.channels = (width,) * len(self.levels)
        self.freeze()

    def forward(self, latents: Tensor, timestep: Tensor, embeds: PromptEmbeds) -> list[Tensor]:
        """Return mixed features [(B, width, 2·h_l, 2·w_l)] of latents (B, C, h, w), from fine to coarse."""
        maps = self.backbone(latents, timestep, embeds)
        mixed: list[Tensor] = []
        for place in reversed(range(len(self.levels))):
            own = self.channel_mixing[place](maps[self.levels[place]])
            total = mixed[0] + own if mixed else own
            larger = F.interpolate(total, scale_factor=2, mode="bilinear", align_corners=True)
            mixed.insert(0, self.scale_mixing[place](larger))
        return mixed


def logit_normal(mean: float, std: float) -> TStarLaw:
    """A law of t*: ln(noise / signal) is normal, as in LADD and SANA-Sprint.

    With z = (1 − τ)·x0 + τ·ε, the ratio is τ / (1 − τ), so τ is logit-normal; SDXL's timestep has the nearest ratio.
    """
    return partial(_logit_normal, mean, std)


def _logit_normal(mean: float, std: float, t_star: int, count: int, stats: object, generator: Generator) -> Tensor:
    """Draw `count` timesteps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64, device=generator.device) ** 2
    alpha = (1 - betas).cumprod(0)
    log_ratio = ((1 - alpha) / alpha).log() / 2
    drawn = mean + std * torch.randn(count, generator=generator, device=generator.device)
    return (drawn[:, None] - log_ratio).abs().argmin(1)


def uniform(low: int = 0, high: int = 1000) -> TStarLaw:
    """A law of t*: each timestep from `low` to `high` − 1 is as likely."""
    return partial(_uniform, low, high)


def _uniform(low: int, high: int, t_star: int, count: int, stats: object, generator: Generator) -> Tensor:
    """Draw `count` timesteps."""
    return torch.randint(low, high, (count,), generator=generator, device=generator.device)


def mismatched_captions(x0: Tensor, embeds: PromptEmbeds) -> tuple[Tensor, PromptEmbeds]:
    """Negatives: each real x0 (B, C, H, W) with the caption of the next one (Reed et al. 2016, algorithm 1)."""
    return x0, embeds[torch.arange(len(x0), device=x0.device).roll(-1)]


def feature_matching(batch: GANBatch, weight: float = 1.0, paired: bool = False) -> Tensor:
    """A loss of the student: squared distance of the batch's mean features (Salimans et al. 2016, section 3.1).

    It is the mean over views and levels. If `paired`, images are compared one by one; with the pairing "same_noise",
    these are the student's and the teacher's samples of the same noise.
    """
    sides = [[x for view in views for maps in view.maps for x in as_list(maps)] for views in (batch.real, batch.fake)]
    losses = [F.mse_loss(f, r) if paired else F.mse_loss(f.mean(0), r.mean(0)) for r, f in zip(*sides, strict=True)]
    return weight * torch.stack(losses).mean()


def label_smoothing(target: float) -> GANLoss:
    """The non-saturating loss with `target` in place of 1 as the label of real samples, for both sides."""
    return GANLoss(partial(_smoothed_d_loss, target), partial(_smoothed_g_loss, target))


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    """−target · log σ(D) − (1 − target) · log(1 − σ(D))."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def _smoothed_d_loss(target: float, real: Tensor, fake: Tensor) -> Tensor:
    return _cross_entropy(real, target) + _cross_entropy(fake, 0.0)


def _smoothed_g_loss(target: float, real: Tensor, fake: Tensor) -> Tensor:
    return _cross_entropy(fake, target)
