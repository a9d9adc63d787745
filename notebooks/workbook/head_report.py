"""Discriminators before training: parameters, cost, first logits of real and fake samples, and the cost of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from einops import reduce
from torch.utils.benchmark import Timer

from nitro_lab.discriminators.checks import check_heads
from nitro_lab.discriminators.inputs import ViewFeatures, as_list, bind_text_dim, channels_of, requested_inputs
from nitro_lab.discriminators.pool import DiscriminatorPool, Panel
from nitro_lab.randomness import seeded
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import HeadFactory, Parts, Variant, apply_variant
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import TrainState

__all__ = ["HeadReport", "logit_shapes", "report_head", "step_costs"]


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
    pooled = views[0].pooled_prompt_embeds
    assert pooled is not None  # `extract_features` sets it
    make, shapes = bind_text_dim(head, pooled.shape[1]), {}
    check_heads(make, views)
    for view in views:
        for place, maps in enumerate(view.maps):
            feature = as_list(maps)
            channels = [x.shape[1] for x in feature]
            module = seeded(0, partial(make, channels[0] if isinstance(maps, torch.Tensor) else channels))
            logits = module.to(feature[0].device)(maps, **view.inputs(place, requested_inputs(module)))
            shapes[tuple(feature[0].shape)] = tuple(logits.shape)
    return shapes


def report_head(
    state: TrainState, head: HeadFactory | None, real: list[ViewFeatures], fake: list[ViewFeatures], repeats: int = 3
) -> HeadReport:
    """Check a head, and measure as many of them as one training step samples. None stands for the settings' head."""
    head = head or Parts().make_head(state.config)
    logit_shapes(head, real)
    pool = DiscriminatorPool(
        bind_text_dim(head, state.samples.embeds.pooled_prompt_embeds.shape[1]),
        channels_of(real[0]),
        torch.Generator().manual_seed(0),
        noise_levels=1,
        views=len(real),
        heads_per_cell=state.config.sampled_heads_per_cell,
        vectorize=state.config.vectorize_heads,
        device=state.accelerator.device,
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
    sizes = [len(as_list(maps)[0]) for view in views for maps in view.maps]
    logits = [cell.unflatten(1, (size, -1)) for cell, size in zip(panel.score(views), sizes, strict=True)]
    means = [reduce(cell, "n (crops b) p -> b", "mean", b=num_images) for cell in logits]
    return torch.stack(means).view(len(views), -1, num_images).cpu()


def step_costs(config: DistillConfig, variants: Mapping[str, Variant], steps: int = 3) -> pd.DataFrame:
    """Check each variant, and take a few training steps with it in which heads and student are updated.

    Returns:
        A row per variant: feature levels, all heads and their parameters, those that a step samples, seconds of the
        fastest step, and its ratio to the first variant's.
    """
    rows = {}
    for name, variant in variants.items():
        changed, parts = apply_variant(config, variant)
        changed = replace(changed, max_train_steps=steps, disc_warmup_steps=0, student_update_freq=1)
        with TemporaryDirectory() as folder:
            run = TrainingRun(changed, Path(folder), parts)
            reports = list(run.steps())
        pool, seconds = run.state.pool, min(report.seconds for report in reports)
        row = {"levels": pool.shape[2], "heads": pool.logit_gap.numel(), "heads per step": reports[0].indices.numel()}
        rows[name] = row | {"parameters": pool.num_parameters, "seconds per step": seconds}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.assign(ratio=table["seconds per step"] / table["seconds per step"].iloc[0])
