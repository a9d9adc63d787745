"""What a head is before it has learned anything: how many numbers it holds, what it costs, and what it says first."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from nitro_lab.head_contract import bind_text, check_head
from nitro_lab.heads import ConvHead
from nitro_lab.ideas import HeadMaker
from nitro_lab.judging import draw_batch, look, make_fakes
from nitro_lab.panel import Sight
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.randomness import seeded
from nitro_lab.stages import ONE_STEP
from nitro_lab.studies.specialists import score_cells
from nitro_lab.studies.timing import now
from nitro_lab.studio import Training

REPEATS = 3


@dataclass(frozen=True)
class Sights:
    """What critics get to see of so many reals and fakes at one noise level: views, then feature levels."""

    real: list[Sight]
    fake: list[Sight]
    images: int


@dataclass(frozen=True)
class HeadReport:
    """weights: numbers of one head at each feature level; seconds: median time of a whole panel, forward and backward.

    real, fake: (V, L, B), the mean logit that newborn heads give each image; V views, L feature levels.
    """

    weights: list[int]
    seconds: float
    real: torch.Tensor
    fake: torch.Tensor


@torch.no_grad()
def see(training: Training, noise_level: int, seed: int = 0) -> Sights:
    """One batch of reals and of the student's fakes, noised alike. The training's own chance is left as it was."""
    before = training.generator.get_state()
    training.generator.manual_seed(seed)
    batch = draw_batch(training)
    training.generator.set_state(before)
    t_star = training.config.t_star[noise_level]
    real = look(training, batch.reals, batch.real_told, batch.real_noise, t_star, crops=seed)
    fake = look(training, make_fakes(training, batch, ONE_STEP), batch.fake_told, batch.fake_noise, t_star, crops=seed)
    return Sights(real, fake, len(batch.reals))


def check_shapes(head: HeadMaker, sights: Sights) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Check a head on every shape of feature map that the views lead to.

    Returns:
        The shape of the features -> that of the logits made of them.

    Raises:
        HeadError: if it breaks the contract; the message says how to mend it.
    """
    bound = bind_text(head, sights.real[0].pooled.shape[1])
    first = {tuple(feature.shape): (feature, sight.pooled) for sight in sights.real for feature in sight}
    for feature, pooled in first.values():
        check_head(bound, feature, pooled)
    return {shape: logits_shape(bound, *seen) for shape, seen in first.items()}


@torch.no_grad()
def logits_shape(head: HeadMaker, feature: torch.Tensor, pooled: torch.Tensor) -> tuple[int, ...]:
    """What a newborn head makes of a feature map."""
    module = seeded(0, lambda: head(feature.shape[1])).to(feature.device)
    return tuple((module(feature, pooled) if getattr(module, "takes_pooled", False) else module(feature)).shape)


def report_heads(
    training: Training, heads: Mapping[str, HeadMaker | None], sights: Sights, repeats: int = REPEATS
) -> dict[str, HeadReport]:
    """Check each head, and measure it as a panel of the training's size.

    Args:
        heads: None is the paper's head, as the config has it.

    Raises:
        HeadError: if one breaks the contract.
    """
    config = training.config
    paper = partial(ConvHead, width=config.width, depth=config.depth)
    return {name: report_head(training, head or paper, sights, repeats) for name, head in heads.items()}


def report_head(training: Training, head: HeadMaker, sights: Sights, repeats: int) -> HeadReport:
    """One head; see `report_heads`."""
    check_shapes(head, sights)
    pool = panel_pool(training, head, sights)
    time_panel(pool, sights)  # the first time is slow
    seconds = statistics.median(time_panel(pool, sights) for _ in range(repeats))
    real, fake = (mean_logits(pool, maps, sights.images) for maps in (sights.real, sights.fake))
    return HeadReport([flat.size for flat in pool.heads], seconds, real, fake)


def panel_pool(training: Training, head: HeadMaker, sights: Sights) -> DiscriminatorPool:
    """A pool that is a panel of the training's size and no more."""
    return DiscriminatorPool(
        bind_text(head, sights.real[0].pooled.shape[1]),
        [maps.shape[1] for maps in sights.real[0]],
        torch.Generator(training.generator.device).manual_seed(0),
        noise_levels=1,
        views=len(sights.real),
        slots=training.config.per_cell,
        vectorize=training.config.vectorize,
    )


def time_panel(pool: DiscriminatorPool, sights: Sights) -> float:
    """Seconds in which a panel of the whole small pool judges reals and fakes, and gets its gradients."""
    panel = pool.draw(0, pool.shape[-1])
    start = now()
    cells = [logits for maps in (sights.real, sights.fake) for logits in panel.score(maps)]
    torch.autograd.grad(torch.stack([logits.mean() for logits in cells]).sum(), panel.leaves())
    return now() - start


@torch.no_grad()
def mean_logits(pool: DiscriminatorPool, maps: list[Sight], images: int) -> torch.Tensor:
    """(V, L, B), the mean over a cell's heads."""
    return score_cells(pool, 0, maps, images).mean(2).cpu()


def print_reports(reports: Mapping[str, HeadReport]) -> None:
    """A line for each head; the first one is the measure of the others' cost."""
    first = next(iter(reports.values())).seconds
    width = max(map(len, reports))
    print(f"{'':{width}}  {'numbers in a head':>17}  {'a panel':>9}  times the first's")
    for name, report in reports.items():
        numbers = f"{min(report.weights):,} – {max(report.weights):,}"
        print(f"{name:{width}}  {numbers:>17}  {1000 * report.seconds:6.0f} ms  {report.seconds / first:17.2f}")
