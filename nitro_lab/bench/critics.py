"""What the pool of critics is compared with: no critics, pools of other sizes, a loop over modules, the textbook."""

from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, cast

import torch

from nitro_lab.bench.baselines import ListedCritics, MeanCritics, listed_update, textbook_step
from nitro_lab.bench.ratio import Comparison, Work
from nitro_lab.distill import one_step
from nitro_lab.heads import ConvHead
from nitro_lab.judging import critics_loss
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.randomness import random_below
from nitro_lab.studies.head_report import see
from nitro_lab.studio import Training

NARROW = 8  # channels; 48,000 heads of the paper's width would take 20 GB with their optimiser states


def critics_cost(training: Training, per_cell: int) -> Comparison:
    """(a) How much of a step goes to the critics at all, with so many heads a cell; the paper's figure draws one."""
    training = drawing(training, per_cell)
    free = MeanCritics(len(training.config.views), len(training.levels), training.generator.device)
    return Comparison(
        f"critics ×{per_cell}",
        f"full step, {describe(training)}",
        "the same step, the heads replaced by a mean of the features",
        1.15,
        steps(training),
        steps(replace(training, pool=cast(DiscriminatorPool, free))),
    )


def pool_size(training: Training, name: str, many: int) -> Comparison:
    """(b) Whether a step costs what the panel costs: a pool so many times as large, of which as many are thrown out."""
    small, large = (with_narrow_pool(training, times) for times in (1, many))
    return Comparison(
        name,
        f"full step, {describe(large)}, {NARROW} channels wide",
        f"the same step, {describe(small)}",
        1.05,
        steps(large),
        steps(small),
    )


def panel_cost(training: Training) -> Comparison:
    """(c) The heads alone: scoring reals and fakes, and learning."""
    sights = see(training, noise_level=0)
    return Comparison(
        "panel",
        f"score and update side by side, {describe(training)}",
        "the same in a Python loop over nn.ModuleList, one AdamW over the whole pool",
        0.5 if training.generator.device.type == "cuda" else 0.8,
        partial(panel_update, training, sights.real, sights.fake),
        partial(listed_update, listed(training), training, sights.real, sights.fake),
    )


def step_cost(training: Training) -> Comparison:
    """(d) The whole way of doing it."""
    return Comparison(
        "step",
        f"full step, {describe(training)}",
        "a textbook's GAN step: student and backbone afresh for D and for G, heads as in `panel`",
        0.65,
        steps(training),
        partial(textbook_step, listed(training), training),
    )


def describe(training: Training) -> str:
    """Sizes of pool and panel."""
    total = training.pool.updates.numel()
    noise_levels, _, _, slots = training.pool.shape
    drawn = total // noise_levels // slots * training.config.per_cell
    return f"{drawn:,} head{'s' * (drawn > 1)} out of a pool of {total:,}"


def drawing(training: Training, per_cell: int) -> Training:
    """The same training with so many heads drawn from each cell."""
    return replace(training, config=replace(training.config, per_cell=per_cell))


def steps(training: Training) -> Work:
    """Training steps, one a call."""
    numbers = count()
    return lambda: one_step(training, next(numbers))


def with_narrow_pool(training: Training, times: int) -> Training:
    """The same training with a pool of narrow heads, that many times as large."""
    config = training.config
    pool = DiscriminatorPool(
        lambda channels: ConvHead(channels, NARROW),
        channels_of(training),
        training.generator,
        noise_levels=len(config.t_star),
        views=len(config.views),
        slots=config.slots * times,
    )
    config = replace(config, slots=config.slots * times, refresh=config.refresh / times)
    return replace(training, config=config, pool=pool)


def channels_of(training: Training) -> list[int]:
    """Of each level that has heads."""
    return [training.backbone.channels[level] for level in training.levels]


def listed(training: Training) -> ListedCritics:
    """The textbook's pool of the same size."""
    config = training.config
    return ListedCritics(
        channels_of(training), config.width, training.pool.shape, config.critic_rate, training.generator.device
    )


def panel_update(training: Training, real: Any, fake: Any) -> None:
    """What a step does with its panel."""
    config, pool = training.config, training.pool
    panel = pool.draw(random_below(len(config.t_star), training.generator), config.per_cell)
    loss = critics_loss(training.ideas.objective_of(config), panel.score(real), panel.score(fake))
    panel.learn(torch.autograd.grad(loss, panel.leaves()), config.critic_rate)
    pool.note(panel, torch.zeros(panel.slots.shape))
