"""What the pool of critics costs: ratios of two ways to do one thing, timed in turn within one run."""

import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState
from tqdm.auto import tqdm

from nitro_lab.bench_baselines import ListedCritics, MeanCritics, listed_update, textbook_step
from nitro_lab.distill import one_step
from nitro_lab.distill_config import DistillConfig
from nitro_lab.heads import ConvHead
from nitro_lab.judging import draw_batch, look
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.pool import DiscriminatorPool
from nitro_lab.provenance import commit, hardware
from nitro_lab.randomness import random_below
from nitro_lab.studio import Training, prepare
from nitro_lab.timing import now

# what the pictures show does not change the time; both sides learn in every step
CONFIG = DistillConfig(reals=64, captions=64, teacher_steps=1, warm_up=0, student_every=1)
MANY = 100  # times as many heads; 48,000 of the paper's width would take 20 GB with their optimiser states
NARROW = 8  # so both pools of that comparison have narrow heads
Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """One comparison: what each side is, its median seconds, and the ratio of the two with the goal set for it."""

    name: str
    ours: str
    theirs: str
    our_seconds: float
    their_seconds: float
    goal: float
    device: str = "cpu"

    @property
    def ratio(self) -> float:
        """Our time over theirs; below 1 we are faster."""
        return self.our_seconds / self.their_seconds


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing, ready to be timed."""

    name: str
    ours: str
    theirs: str
    goal: float
    our_work: Work
    their_work: Work

    def time(self, rounds: int) -> Ratio:
        """Run both once to warm up, and then in turn, the one that goes first changing from round to round."""
        works = (self.our_work, self.their_work)
        seconds: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds + 1):
            for side in (0, 1) if turn % 2 else (1, 0):
                start = now()
                works[side]()
                if turn > 0:
                    seconds[side].append(now() - start)
        ours, theirs = map(statistics.median, seconds)
        return Ratio(self.name, self.ours, self.theirs, ours, theirs, self.goal)


def measure(
    device: str | None = None, rounds: int = 15, config: DistillConfig = CONFIG, many: int = MANY
) -> list[Ratio]:
    """Time all comparisons.

    Args:
        device: "cpu" or "cuda"; CUDA if there is one.
        rounds: timings of each side; their median counts.
        many: how many times larger the large pool is than the small one.

    Raises:
        ValueError: if there is no such device, or rounds is less than 1.
    """
    if device not in (None, "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ValueError(
            f"device is {device!r}; here it can be {'cpu or cuda' if torch.cuda.is_available() else 'cpu'}."
        )
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; it must be at least 1.")
    with on_device(device), TemporaryDirectory() as folder:
        training = prepare(config, Path(folder))
        panels = [partial(critics_cost, per_cell=heads) for heads in sorted({1, config.per_cell})]
        makers = [*panels, partial(pool_size, many=many), panel_cost, step_cost]
        ratios = [make(training).time(rounds) for make in tqdm(makers, desc="bench", leave=False)]
        return [replace(ratio, device=training.accelerator.device.type) for ratio in ratios]


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Let accelerate use the CPU where it would take a GPU; it remembers the first device that it was given."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    if device is not None:
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_USE_CPU"] = str(device == "cpu")
    try:
        yield
    finally:
        if device is not None:
            AcceleratorState._reset_state(reset_partial_state=True)
            os.environ.pop("ACCELERATE_USE_CPU")
        if before is not None:
            os.environ["ACCELERATE_USE_CPU"] = before


def critics_cost(training: Training, per_cell: int) -> Comparison:
    """(a) How much of a step goes to the critics at all, with so many heads a cell; the paper's figure draws one."""
    config = replace(training.config, per_cell=per_cell)
    training = replace(training, config=config)
    free = MeanCritics(len(config.views), len(training.backbone.channels), training.generator.device)
    return Comparison(
        f"critics ×{per_cell}",
        f"full step, {describe(training)}",
        "the same step, the heads replaced by a mean of the features",
        1.15,
        steps(training),
        steps(replace(training, pool=cast(DiscriminatorPool, free))),
    )


def pool_size(training: Training, many: int) -> Comparison:
    """(b) Whether a step costs what the panel costs. As many heads are thrown out from either pool."""
    small, large = (with_narrow_pool(training, times) for times in (1, many))
    return Comparison(
        "pool size",
        f"full step, {describe(large)}, {NARROW} channels wide",
        f"the same step, {describe(small)}",
        1.05,
        steps(large),
        steps(small),
    )


def panel_cost(training: Training) -> Comparison:
    """(c) The heads alone: scoring reals and fakes, and learning."""
    batch = draw_batch(training)
    t_star = training.config.t_star[0]
    with torch.no_grad():
        real, fake = (
            look(training, latents, batch.real_told, batch.noise, t_star, crops=0)
            for latents in (batch.reals, batch.reals.roll(1, 0))
        )
    return Comparison(
        "panel",
        f"score and update, vmapped, {describe(training)}",
        "the same in a Python loop over nn.ModuleList, one AdamW over the whole pool",
        0.5 if training.generator.device.type == "cuda" else 0.8,
        lambda: panel_update(training, real, fake),
        partial(listed_update, listed(training), training, real, fake),
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
    return f"{total // noise_levels // slots * training.config.per_cell:,} heads out of a pool of {total:,}"


def steps(training: Training) -> Work:
    """Training steps, one a call."""
    numbers = count()
    return lambda: one_step(training, next(numbers))


def with_narrow_pool(training: Training, times: int) -> Training:
    """The same training with a pool of narrow heads, that many times as large."""
    config = training.config
    pool = DiscriminatorPool(
        lambda channels: ConvHead(channels, NARROW),
        training.backbone.channels,
        training.generator,
        noise_levels=len(config.t_star),
        views=len(config.views),
        slots=config.slots * times,
    )
    config = replace(config, slots=config.slots * times, refresh=config.refresh / times)
    return replace(training, config=config, pool=pool)


def listed(training: Training) -> ListedCritics:
    """The textbook's pool of the same size."""
    config = training.config
    return ListedCritics(
        training.backbone.channels, config.width, training.pool.shape, config.critic_rate, training.generator.device
    )


def panel_update(training: Training, real: Any, fake: Any) -> None:
    """What a step does with its panel."""
    config, pool = training.config, training.pool
    panel = pool.draw(random_below(len(config.t_star), training.generator), config.per_cell)
    pairs = zip(panel.score(real), panel.score(fake), strict=True)
    critic = OBJECTIVES[config.objective].critic
    loss = torch.stack([critic(r, f) * len(r) for r, f in pairs]).sum()
    panel.learn(torch.autograd.grad(loss, panel.leaves()), config.critic_rate)
    pool.note(panel, torch.zeros(panel.slots.shape))


def print_ratios(ratios: list[Ratio]) -> None:
    """One row a comparison, and below it what stands above and below the fraction's line."""
    print(f"{'':12}{'ratio':>8}{'goal':>8}{'ours':>12}{'theirs':>12}")
    for row in ratios:
        times = f"{1e3 * row.our_seconds:9.1f} ms{1e3 * row.their_seconds:9.1f} ms"
        print(f"{row.name:12}{row.ratio:8.3f}{'≤ ' + format(row.goal, '.2f'):>8}{times}")
        print(f"    ours:   {row.ours}\n    theirs: {row.theirs}")


def write_ratios(ratios: list[Ratio], path: Path) -> None:
    """The same as JSON, with what it was measured on."""
    where = {"torch": torch.__version__, "hardware": hardware(torch.device(ratios[0].device)), "commit": commit()}
    rows = {row.name: asdict(row) | {"ratio": row.ratio} for row in ratios}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(where | {"ratios": rows}, indent=2, ensure_ascii=False) + "\n")
