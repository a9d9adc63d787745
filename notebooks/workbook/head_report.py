"""A discriminator head before training: number of parameters, cost, and its first logits of real and fake samples."""

from dataclasses import dataclass
from functools import partial

import torch
from einops import reduce
from torch.utils.benchmark import Timer

from nitro_lab.discriminators.checks import bind_text_dim, check_head
from nitro_lab.discriminators.pool import DiscriminatorPool, Panel, ViewFeatures
from nitro_lab.randomness import seeded
from nitro_lab.training.parts import HeadFactory, Parts
from nitro_lab.training.state import TrainState

__all__ = ["HeadReport", "logit_shapes", "report_head"]


@dataclass(frozen=True)
class HeadReport:
    """A head before training.

    Attributes:
        num_parameters: of one head at each feature level.
        seconds: mean time of forward and backward pass of all heads that one training step samples.
        real, fake: (views, feature levels, images) logits, mean over a cell's heads.
    """

    num_parameters: list[int]
    seconds: float
    real: torch.Tensor
    fake: torch.Tensor


@torch.no_grad()
def logit_shapes(head: HeadFactory, views: list[ViewFeatures]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Check a head on features of every shape: shape of the features -> shape of its logits. May raise a HeadError."""
    shapes = {}
    for feature, pooled in [(feature, view.pooled_prompt_embeds) for view in views for feature in view.maps]:
        assert pooled is not None  # `extract_features` sets it
        make = bind_text_dim(head, pooled.shape[1])
        check_head(make, feature, pooled)
        module = seeded(0, partial(make, feature.shape[1])).to(feature.device)
        inputs = (feature, pooled) if getattr(module, "uses_pooled_prompt", False) else (feature,)
        shapes[tuple(feature.shape)] = tuple(module(*inputs).shape)
    return shapes


def report_head(
    state: TrainState, head: HeadFactory | None, real: list[ViewFeatures], fake: list[ViewFeatures], repeats: int = 3
) -> HeadReport:
    """Check a head, and measure as many of them as one training step samples. None stands for the settings' head."""
    head = head or Parts().make_head(state.config)
    logit_shapes(head, real)
    pool = DiscriminatorPool(
        bind_text_dim(head, state.samples.embeds.pooled_prompt_embeds.shape[1]),
        [feature.shape[1] for feature in real[0].maps],
        torch.Generator(state.generator.device).manual_seed(0),
        noise_levels=1,
        views=len(real),
        heads_per_cell=state.config.sampled_heads_per_cell,
        vectorize=state.config.vectorize_heads,
    )
    panel = pool.all_heads(0)

    def score_and_differentiate() -> None:
        means = [logits.mean() for logits in [*panel.score(real), *panel.score(fake)]]
        torch.autograd.grad(torch.stack(means).sum(), panel.parameters())

    timer = Timer("run()", globals={"run": score_and_differentiate}, num_threads=torch.get_num_threads())
    means = [_mean_logits(panel, views, state.config.batch_size) for views in (real, fake)]
    return HeadReport(pool.head_sizes, timer.timeit(repeats).mean, *means)


@torch.no_grad()
def _mean_logits(panel: Panel, views: list[ViewFeatures], num_images: int) -> torch.Tensor:
    """(views, feature levels, images), mean over the heads of a cell and over all logits of an image and its crops."""
    sizes = [len(feature) for view in views for feature in view.maps]
    logits = [cell.unflatten(1, (size, -1)) for cell, size in zip(panel.score(views), sizes, strict=True)]
    means = [reduce(cell, "n (crops b) p -> b", "mean", b=num_images) for cell in logits]
    return torch.stack(means).view(len(views), -1, num_images).cpu()
