"""Heads that several methods share, and heads of a single idea.

`TokenScorer`, and the heads made of it, are those of StyleGAN-T, which ADD, LADD and SANA-Sprint took over.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

__all__ = [
    "NOISE_DIM",
    "GramHead",
    "LocalBatchNorm",
    "MinibatchStdHead",
    "ProjectionHead",
    "SpectralConv",
    "SpectralHead",
    "TextTokenHead",
    "TokenHead",
    "TokenScorer",
    "noise_code",
]

NOISE_DIM = 32


def noise_code(t_star: Tensor) -> Tensor:
    """Sines and cosines of timesteps (B,): (B, 32)."""
    return get_timestep_embedding(t_star, NOISE_DIM)


class SpectralConv(nn.Conv2d):
    """A convolution whose weight is divided by its spectral norm (Miyato et al. 2018), which is exact: no state."""

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) as `nn.Conv2d` does."""
        rows = self.weight.flatten(1)
        gram = rows @ rows.mT if len(rows) <= rows.shape[1] else rows.mT @ rows
        return self._conv_forward(feature, self.weight / torch.linalg.eigvalsh(gram)[-1].sqrt(), self.bias)


class LocalBatchNorm(nn.Module):
    """BatchNorm over virtual batches of 8 images, without running means (StyleGAN-T, section 3.2)."""

    def __init__(self, channels: int, batch: int = 8):
        super().__init__()
        self.batch = batch
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, feature: Tensor) -> Tensor:
        """Normalize features (B, C, h, w)."""
        parts = feature.split(self.batch)
        return torch.cat([F.batch_norm(part, None, None, self.weight, self.bias, training=True) for part in parts])


class TokenScorer(nn.Module):
    """A logit per token: a 1×1 convolution, a residual one, and a projection (Sauer et al. 2023, section 3.2).

    StyleGAN-T's `DiscHead`; its equalized learning rate is left out. Images of a batch see each other's statistics.

    Args:
        channels: of the features.
        condition_dim: of the condition; 0: none.
        kernel: of the residual convolution; 9 taps along the sequence of tokens, or (3, 3) over the map.
    """

    mixes_samples = True
    width = 64

    def __init__(self, channels: int, condition_dim: int = 0, kernel: tuple[int, int] = (1, 9)):
        super().__init__()
        self.sequence = kernel[0] == 1
        padding = kernel[0] // 2, kernel[1] // 2
        residual = SpectralConv(channels, channels, kernel, padding=padding, padding_mode="circular")
        self.first, self.second = (
            nn.Sequential(conv, LocalBatchNorm(channels), nn.LeakyReLU(0.2))
            for conv in (SpectralConv(channels, channels, 1), residual)
        )
        self.classify = SpectralConv(channels, self.width if condition_dim else 1, 1)
        self.condition = nn.Linear(condition_dim, self.width) if condition_dim else None

    def score(self, feature: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map features (B, C, h, w) and a condition (B, D) to (B, 1, h, w), or (B, 1, 1, h·w) for a sequence."""
        tokens = self.first(feature.flatten(2)[:, :, None] if self.sequence else feature)
        logits = self.classify((tokens + self.second(tokens)) / math.sqrt(2))
        if self.condition is None or condition is None:
            return logits
        direction = self.condition(condition)[:, :, None, None]
        return (logits * direction).sum(1, keepdim=True) / math.sqrt(self.width)


class TokenHead(TokenScorer):
    """Unconditional, as in SANA-Sprint."""

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to a logit per token."""
        return self.score(feature)


class TextTokenHead(TokenScorer):
    """Conditioned on the pooled prompt embedding, as in StyleGAN-T and ADD."""

    def __init__(self, channels: int, text_dim: int):
        super().__init__(channels, text_dim)

    def forward(self, feature: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        """Map features (B, C, h, w) and pooled prompt embeddings (B, P) to a logit per token."""
        return self.score(feature, pooled_prompt_embeds)


class SpectralHead(nn.Module):
    """Scores the Fourier magnitudes of the channels: which frequencies there are, wherever they are."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels + 1, width, 1), nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to a logit per frequency, (B, 1, h, w // 2 + 1)."""
        vertical = torch.fft.fftfreq(feature.shape[2], device=feature.device)
        horizontal = torch.fft.rfftfreq(feature.shape[3], device=feature.device)
        frequency = torch.hypot(vertical[:, None], horizontal).expand(len(feature), 1, -1, -1)
        return self.layers(torch.cat([torch.fft.rfft2(feature, norm="ortho").abs().log1p(), frequency], 1))


class ProjectionHead(nn.Module):
    """Scores whether features match the prompt: ψ(φ(x)) + ⟨V·y, φ(x)⟩ (Miyato and Koyama 2018, eq. 4)."""

    def __init__(self, channels: int, text_dim: int, width: int = 32):
        super().__init__()
        self.phi = nn.Sequential(nn.Conv2d(channels, width, 1), nn.SiLU())
        self.psi = nn.Linear(width, 1)
        self.project = nn.Linear(text_dim, width, bias=False)

    def forward(self, feature: Tensor, pooled_prompt_embeds: Tensor) -> Tensor:
        """Map features (B, C, h, w) and pooled prompt embeddings (B, P) to (B, 1)."""
        phi = self.phi(feature).mean((2, 3))
        return self.psi(phi) + (self.project(pooled_prompt_embeds) * phi).sum(1, keepdim=True)


class MinibatchStdHead(nn.Module):
    """Gets the features' mean standard deviation over the batch as a channel (Karras et al. 2018, section 3)."""

    mixes_samples = True

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels + 1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to (B, 1, h, w)."""
        std = (feature.var(0, unbiased=False) + 1e-8).sqrt().mean()
        return self.layers(torch.cat([feature, std.expand_as(feature[:, :1])], 1))


class GramHead(nn.Module):
    """Scores the correlations of channels: the Gram matrix of style transfer (Gatys et al. 2016)."""

    def __init__(self, channels: int, width: int = 16):
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.score = nn.Linear(width * width, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map features (B, C, h, w) to (B, 1)."""
        rows = self.reduce(feature).flatten(2)
        return self.score((rows @ rows.mT / rows.shape[2]).flatten(1))
