"""Discriminators of published methods, and single ideas, as variants for `nitro_lab.experiments.compare`.

`compare(ZOO)` trains all methods on equal terms; `IDEAS` has heads of about ten lines.
"""

from typing import Any

from torch import nn

from nitro_lab.discriminators.zoo import entries, heads, parts
from nitro_lab.discriminators.zoo.heads import *  # noqa: F403
from nitro_lab.discriminators.zoo.parts import *  # noqa: F403

__all__ = ["IDEAS", "ZOO", *heads.__all__, *parts.__all__]

ZOO: dict[str, dict[str, Any]] = {
    "NitroFusion": entries.nitrofusion(),
    "LADD": entries.ladd(),
    "ADD": entries.add(),
    "Projected GAN": entries.projected_gan(),
    "StyleGAN-T": entries.stylegan_t(),
    "SANA-Sprint": entries.sana_sprint(),
    "APT": entries.apt(),
    "DMD2": entries.dmd2(),
    "PCM": entries.pcm(),
    "R3GAN": entries.r3gan(),
    "Vision-aided GAN": entries.vision_aided(),
    "Diffusion-GAN": entries.diffusion_gan(),
}
IDEAS: dict[str, type[nn.Module]] = {
    "spectral": heads.SpectralHead,
    "projection": heads.ProjectionHead,
    "minibatch std": heads.MinibatchStdHead,
    "Gram matrix": heads.GramHead,
}
