"""Other discriminator heads, about ten lines each; `ZOO` has them as variants for `nitro_lab.experiments.compare`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nitro_lab.discriminators.heads import ConvHead

__all__ = ["ZOO", "GramHead", "MinibatchStdHead", "ProjectionHead", "SpectralHead"]


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

    uses_pooled_prompt = True

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


_NO_POOL = {"heads_per_cell": 1, "sampled_heads_per_cell": 1, "refresh_rate": 0.0, "views": ("global_conditional",)}
_DMD2_LIKE = {"head": partial(ConvHead, width=64, depth=2), "feature_indices": (9,)}
ZOO: dict[str, Any] = {
    "paper": {},
    "spectral": SpectralHead,
    "projection": ProjectionHead,
    "minibatch std": MinibatchStdHead,
    "Gram matrix": GramHead,
    "deep head on the mid block (as DMD2)": _DMD2_LIKE | _NO_POOL,  # Yin et al. 2024
    "one head per level, no pool (as LADD)": _NO_POOL,  # Sauer et al. 2024
}
