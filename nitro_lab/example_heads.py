"""Other people's critics in about ten lines each, as starting points. The paper's own is `nitro_lab.heads.ConvHead`.

What they may do is told in `nitro_lab.head_contract`. `EXAMPLES` holds them as changes for `nitro_lab.compare.compare`.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from nitro_lab.heads import ConvHead


class SpectralHead(nn.Module):
    """Looks at the Fourier magnitude of each channel: what frequencies there are, wherever they are."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(channels + 1, width, 1), nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) -> a logit for each frequency, (B, 1, h, w // 2 + 1)."""
        magnitude = torch.fft.rfft2(feature, norm="ortho").abs().log1p()
        rows = torch.fft.fftfreq(feature.shape[2], device=feature.device)
        columns = torch.fft.rfftfreq(feature.shape[3], device=feature.device)
        frequency = torch.hypot(rows[:, None], columns).expand(len(feature), 1, -1, -1)
        return self.read(torch.cat([magnitude, frequency], 1))


class ProjectionHead(nn.Module):
    """Asks whether features and text belong together: ψ(φ(x)) + ⟨V·y, φ(x)⟩ (Miyato and Koyama 2018, eq. 4)."""

    takes_pooled = True

    def __init__(self, channels: int, text: int, width: int = 32):
        super().__init__()
        self.look = nn.Sequential(nn.Conv2d(channels, width, 1), nn.SiLU())
        self.judge = nn.Linear(width, 1)
        self.project = nn.Linear(text, width, bias=False)

    def forward(self, feature: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) and pooled text (B, E) -> (B, 1)."""
        seen = self.look(feature).mean((2, 3))
        return self.judge(seen) + (self.project(pooled) * seen).sum(1, keepdim=True)


class MinibatchStatHead(nn.Module):
    """Sees how much the images of a batch differ, as one more channel (Karras et al. 2018, section 3)."""

    mixes_images = True

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(channels + 1, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) -> (B, 1, h, w)."""
        spread = (feature.var(0, unbiased=False) + 1e-8).sqrt().mean()
        return self.read(torch.cat([feature, spread.expand_as(feature[:, :1])], 1))


class GramHead(nn.Module):
    """Looks at which channels light up together: the Gram matrix of style transfer (Gatys et al. 2016)."""

    def __init__(self, channels: int, width: int = 16):
        super().__init__()
        self.narrow = nn.Conv2d(channels, width, 1)
        self.read = nn.Linear(width * width, 1)

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """Features (B, C, h, w) -> (B, 1)."""
        rows = self.narrow(feature).flatten(2)
        return self.read((rows @ rows.mT / rows.shape[2]).flatten(1))


NO_POOL = {"slots": 1, "per_cell": 1, "refresh": 0.0}
WHOLE = {"views": ("global conditional",)}
DMD2_LIKE: dict[str, Any] = {"head": partial(ConvHead, width=64, depth=2), "levels": (9,)} | NO_POOL | WHOLE
LADD_LIKE: dict[str, Any] = NO_POOL | WHOLE
EXAMPLES: dict[str, Any] = {
    "the paper's head": {},
    "spectral": SpectralHead,
    "projection": ProjectionHead,
    "minibatch statistics": MinibatchStatHead,
    "Gram matrix": GramHead,
    "a deep head on the mid block (as DMD2)": DMD2_LIKE,  # Yin et al. 2024: one classifier on the bottleneck
    "one head a level, no pool (as LADD)": LADD_LIKE,  # Sauer et al. 2024: a head on each layer of the teacher
}
