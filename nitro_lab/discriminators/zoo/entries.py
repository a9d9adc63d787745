"""Discriminators of published methods: one function each, with the head of its own above it, at most 25 lines together.

Each returns settings of `DistillConfig` and parts of `Parts`, which replace NitroFusion's. All train on the miniature's
latents with its student, real samples and learning rates; other losses of a method's student are left out, and so are
augmentations of images. Backbones are frozen, also where the method trains them, and feature levels are those of the
miniature's UNet: 0 to 3 of side 16, 16, 16, 8; 4 to 6 of 8, 8, 4; 7 to 9 of 4; 10 to 12 of its decoder, 8, 16, 16.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLPipeline
from torch import Generator, Tensor, nn

from nitro_lab.backbones import Backbone, FrozenUNetEncoder
from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import GANLoss, approximate_r1, gradient_penalty, hinge_d_loss
from nitro_lab.discriminators.optimizers import rmsprop
from nitro_lab.discriminators.selection import HeadStats
from nitro_lab.discriminators.zoo.heads import (
    NOISE_DIM,
    SpectralConv,
    TextTokenHead,
    TokenHead,
    TokenScorer,
    noise_code,
)
from nitro_lab.discriminators.zoo.parts import (
    Clean,
    CrossLevelMixing,
    label_smoothing,
    logit_normal,
    mismatched_captions,
    scene_classifier,
    uniform,
    whole_unet,
)

Variant = dict[str, Any]

_ONE_HEAD = {"heads_per_cell": 1, "sampled_heads_per_cell": 1, "refresh_rate": 0.0, "views": ("global_conditional",)}
_CLEAN = _ONE_HEAD | {"t_star": (10,)}  # for methods that add no noise: a little for the UNet, none for pixels
_NOISY = _ONE_HEAD | {"t_star": (500,)}  # one discriminator; t* follows a law


def nitrofusion() -> Variant:
    """NitroFusion's pool (2412.02030, section 3): what the settings say."""
    return {}


class LADDHead(TokenScorer):
    """2D convolutions, conditioned on the prompt and t*."""

    def __init__(self, channels: int, text_dim: int):
        super().__init__(channels, text_dim + NOISE_DIM, kernel=(3, 3))

    def forward(self, feature: Tensor, pooled_prompt_embeds: Tensor, t_star: Tensor) -> Tensor:
        """Map features (B, C, h, w), pooled prompt embeddings (B, P) and timesteps (B,) to (B, 1, h, w)."""
        return self.score(feature, torch.cat([pooled_prompt_embeds, noise_code(t_star)], 1))


def ladd() -> Variant:
    """LADD (Sauer et al. 2024, 2403.12015, sections 3 and 4.1): heads after all blocks of the teacher; t* logit-normal.

    Left out: synthetic images of several aspect ratios.
    """
    law = logit_normal(1.0, 1.0)
    return _NOISY | {"backbone": whole_unet, "head": LADDHead, "sample_t_star": law, "gan_loss": "hinge"}


def add() -> Variant:
    """ADD (Sauer et al. 2023, 2311.17042, section 3.2, eq. 2 and 3): a vision network on pixels, R1 of its features.

    Changed: the scene classifier in place of DINOv2; weight of R1, which the paper does not state. Left out: score
    distillation, and the condition on an image's embedding.
    """
    penalty = partial(gradient_penalty, weight=1.0)
    return _CLEAN | {"backbone": scene_classifier, "head": TextTokenHead, "gan_loss": "hinge", "regularizer": penalty}


class ProjectedHead(nn.Module):
    """A discriminator per level, finest first: halved to 8×8, then a 4×4 convolution to 5×5 logits."""

    all_levels = True

    def __init__(self, channels: list[int]):
        super().__init__()
        self.scales = nn.ModuleList()
        for place, width in enumerate(channels):
            blocks = [
                nn.Sequential(SpectralConv(width, width, 4, 2, 1), nn.GroupNorm(width // 2, width), nn.LeakyReLU(0.2))
                for _ in channels[place + 1 :]
            ]
            self.scales.append(nn.Sequential(*blocks, SpectralConv(width, 1, 4, bias=False)))

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map features [(B, C_l, h_l, w_l)] to all their logits, (B, 25 · levels)."""
        return torch.cat([scale(x).flatten(1) for scale, x in zip(self.scales, features, strict=True)], 1)


def projected_gan() -> Variant:
    """Projected GAN (Sauer et al. 2021, 2111.01007, section 3.2). Changed: the UNet, not EfficientNet; 3 scales."""
    return _CLEAN | {"backbone": _mixed_levels, "head": ProjectedHead, "gan_loss": "hinge"}


def _mixed_levels(pipe: StableDiffusionXLPipeline) -> Backbone:
    return CrossLevelMixing(FrozenUNetEncoder(pipe.unet))


def stylegan_t() -> Variant:
    """StyleGAN-T (Sauer et al. 2023, 2301.09515, section 3.2): heads on tokens of a vision network, and the prompt.

    Changed: the scene classifier in place of DINO. Left out: the guidance by CLIP; crops.
    """
    return _CLEAN | {"backbone": scene_classifier, "head": TextTokenHead, "gan_loss": "hinge"}


def sana_sprint() -> Variant:
    """SANA-Sprint (Chen et al. 2025, 2503.09641, section 3.3): LADD with wrong captions as further fakes.

    As in the repository: unconditional heads on tokens of 4 blocks, t* of real and fake samples with tan t log-normal
    (−0.6, 1) for data of deviation 1/2. Left out: consistency distillation, the weight on the largest timestep.
    """
    return _NOISY | {
        "backbone": whole_unet,
        "feature_indices": (2, 5, 9, 12),
        "head": TokenHead,
        "sample_t_star": logit_normal(math.log(2) - 0.6, 1.0),
        "negatives": mismatched_captions,
        "gan_loss": "hinge",
    }


class APTHead(nn.Module):
    """A learned token attends to each level's tokens; what it saw of all levels makes one logit."""

    all_levels = True

    def __init__(self, channels: list[int]):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in channels)
        self.queries = nn.ParameterList(torch.randn(width) / math.sqrt(width) for width in channels)
        self.values = nn.ModuleList(nn.Linear(width, width) for width in channels)
        self.out = nn.Linear(sum(channels), 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Map features [(B, C_l, h_l, w_l)] to (B, 1)."""
        tokens = [norm(x).flatten(2).mT for norm, x in zip(self.norms, features, strict=True)]
        seen = [((x @ q).softmax(1)[:, None] @ x)[:, 0] for x, q in zip(tokens, self.queries, strict=True)]
        return self.out(torch.cat([value(x) for value, x in zip(self.values, seen, strict=True)], 1))


def apt() -> Variant:
    """APT (Lin et al. 2025, 2501.08316, section 3): clean samples at any t, approximate R1 (eq. 4), RMSProp."""
    parts = {"regularizer": partial(approximate_r1, weight=100.0), "head_optimizer": partial(rmsprop, alpha=0.9)}
    levels = {"backbone": _clean_unet, "feature_indices": (9, 10, 12), "sample_t_star": uniform()}
    return _NOISY | parts | levels | {"head": APTHead, "gan_loss": "non_saturating", "disc_learning_rate": 1e-3}


def _clean_unet(pipe: StableDiffusionXLPipeline) -> Backbone:
    return Clean(whole_unet(pipe))


def dmd2() -> Variant:
    """DMD2 (Yin et al. 2024, 2405.14867, section 4.3, eq. 4): a classifier on the mid block of diffused samples.

    Changed: the mid block is the teacher's, not the fake score's. Left out: distribution matching.
    """
    return _NOISY | {
        "feature_indices": (9,),
        "head": partial(ConvHead, width=96, depth=2),
        "sample_t_star": uniform(),
        "gan_loss": "non_saturating",
    }


class PCMHead(nn.Module):
    """1×1 convolutions, the second one residual."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GroupNorm(16, channels), nn.LeakyReLU()) for _ in "ab"
        )
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to (B, 1, h, w)."""
        feature = self.first(feature)
        return self.out(feature + self.second(feature))


def _pcm_g_loss(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - fake).mean()


def pcm() -> Variant:
    """PCM (Wang et al. 2024, 2405.18407; `discriminator_sdxl.py`). Left out: consistency loss; phases, so t* is any."""
    loss = GANLoss(hinge_d_loss, _pcm_g_loss)
    return _NOISY | {"feature_indices": (3, 6, 8, 9), "head": PCMHead, "gan_loss": loss, "sample_t_star": uniform()}


class R3Head(nn.Module):
    """A residual block without norm, whose last layer starts at 0, and a logit from the mean of the map."""

    def __init__(self, channels: int, groups: int = 16):
        super().__init__()
        wide, last = 2 * channels, nn.Conv2d(2 * channels, channels, 1, bias=False)
        nn.init.zeros_(last.weight)
        first, grouped = nn.Conv2d(channels, wide, 1), nn.Conv2d(wide, wide, 3, padding=1, groups=groups)
        self.layers = nn.Sequential(first, nn.LeakyReLU(0.2), grouped, nn.LeakyReLU(0.2), last)
        self.out = nn.Linear(channels, 1, bias=False)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to (B, 1)."""
        return self.out((feature + self.layers(feature)).mean((2, 3)))


def r3gan() -> Variant:
    """R3GAN (Huang et al. 2024, 2501.05441, section 2): relativistic pairs, R1, R2. Changed: penalties of features."""
    penalty = partial(gradient_penalty, weight=1.0, fake=True)
    return _CLEAN | {"head": R3Head, "gan_loss": "relativistic", "regularizer": penalty}


class VisionHead(nn.Module):
    """Two strided convolutions to a map of logits."""

    def __init__(self, channels: int, width: int = 128):
        super().__init__()
        first, second = SpectralConv(channels, width, 3, stride=2), SpectralConv(width, 1, 1, stride=2)
        self.layers = nn.Sequential(first, nn.LeakyReLU(0.2), second)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to about (B, 1, h/4, w/4)."""
        return self.layers(feature)


def vision_aided() -> Variant:
    """Vision-aided GAN (Kumari et al. 2022, 2112.09130; `multilevel_sigmoid_s` of its code): labels of 0.8, not 1.

    Changed: the scene classifier in place of DINO and CLIP. Left out: a pixel discriminator, blur, network selection.
    """
    return _CLEAN | {"backbone": scene_classifier, "head": VisionHead, "gan_loss": label_smoothing(0.8)}


class NoiseHead(nn.Module):
    """NitroFusion's head, conditioned on t* by projection."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.layers = ConvHead(channels, width).layers
        self.direction = nn.Linear(NOISE_DIM, width)

    def forward(self, feature: Tensor, t_star: Tensor) -> Tensor:
        """Map features (B, C, h, w) and timesteps (B,) to (B, 1, h/2, w/2)."""
        hidden, direction = self.layers[:-1](feature), self.direction(noise_code(t_star))[:, :, None, None]
        return self.layers[-1](hidden) + (hidden * direction).mean(1, keepdim=True)


def diffusion_gan() -> Variant:
    """Diffusion-GAN (Wang et al. 2023, 2206.02262, section 3.3). Changed: T follows overfitting at once."""
    return _NOISY | {"head": NoiseHead, "gan_loss": "non_saturating", "sample_t_star": _adaptive_t_star}


def _adaptive_t_star(t_star: int, count: int, stats: HeadStats, generator: Generator) -> Tensor:
    overfitting = torch.tanh(stats["logit_gap"].mean() / 4)  # E sign(D(real)), if D is calibrated
    strength = (overfitting / 0.6).clamp(0, 1).to(generator.device)
    place, chance = torch.rand(2, count, generator=generator, device=generator.device)
    t = (5 + 495 * strength) * place.sqrt()  # density rises with t up to T; a quarter or more stay clean
    return torch.where(chance < strength.clamp(max=0.75), t, 0).long()
