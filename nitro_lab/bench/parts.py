"""Where the time of a training step goes: data, student, backbone, heads, optimisers, each timed by itself."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from nitro_lab.bench.critics import describe, drawing, steps
from nitro_lab.bench.ratio import Comparison, Ratio
from nitro_lab.distill import gather_gradient
from nitro_lab.judging import Batch, critics_loss, draw_batch, look, make_fakes, margins_of, students_loss
from nitro_lab.panel import Panel, Sight
from nitro_lab.randomness import chance_from, random_below
from nitro_lab.stages import ONE_STEP
from nitro_lab.studies.timing import now
from nitro_lab.studio import Training

PARTS = ("data", "student", "backbone", "heads", "optimiser")
Seconds = dict[str, float]


@dataclass(frozen=True)
class Split:
    """Median seconds of each part of a step; `ratio` is the whole step over its student and backbone.

    What a step does beside its parts (checks, the report) is left over. It may be less than nothing: medians of parts
    do not add up to the median of other calls.
    """

    ratio: Ratio
    parts: Seconds

    @property
    def step(self) -> float:
        """Seconds of the whole step."""
        return self.ratio.our_seconds

    @property
    def left_over(self) -> float:
        """The step less the sum of its parts."""
        return self.step - sum(self.parts.values())


def split_step(training: Training, rounds: int, per_cell: int) -> Split:
    """Time a step as it is, and in pieces, in turn."""
    training = drawing(training, per_cell)
    pieces: list[Seconds] = []
    comparison = Comparison(
        f"parts ×{per_cell}",
        f"full step, {describe(training)}",
        "its student and its backbone, forward and backward",
        1.15,
        steps(training),
        lambda: pieces.append(step_in_parts(training)),
    )
    ratio = comparison.time(rounds)
    parts = {part: statistics.median(piece[part] for piece in pieces[1:]) for part in PARTS}  # the first warms up
    return Split(replace(ratio, their_seconds=parts["student"] + parts["backbone"]), parts)


def step_in_parts(training: Training) -> Seconds:
    """A step in which all learn, as `nitro_lab.distill.one_step`, its graph cut where a part hands on to the next.

    Returns:
        Seconds of each of `PARTS`.
    """
    config, generator, clock = training.config, training.generator, Clock()
    with chance_from(generator):
        noise_level = random_below(len(config.t_star), generator)
        with clock("heads"):
            panel = training.pool.draw(noise_level, config.per_cell)
        with clock("data"):
            batch = draw_batch(training)
            crops = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with clock("student"), training.accelerator.autocast():
            fakes = make_fakes(training, batch, ONE_STEP)
        shown = fakes.detach().requires_grad_()
        with clock("backbone"), training.accelerator.autocast():
            real_sights, fake_sights = look_at_both(training, batch, shown, config.t_star[noise_level], crops)
        with clock("heads"):
            pulls, gradients, margins = judge_sights(training, panel, real_sights, fake_sights)
        with clock("backbone"):
            (pull,) = torch.autograd.grad(flat(fake_sights), shown, pulls)
        with clock("student"):
            training.optimizer.zero_grad()
            fakes.backward(pull)
        with clock("optimiser"):
            learn(training, panel, gradients, margins)
    return clock.seconds


class Clock:
    """Adds up the seconds that blocks of each name took."""

    def __init__(self) -> None:
        self.seconds: Seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """One block."""
        start = now()
        yield
        self.seconds[part] += now() - start


def look_at_both(
    training: Training, batch: Batch, fakes: torch.Tensor, t_star: int, crops: int
) -> tuple[list[Sight], list[Sight]]:
    """Feature maps of reals, and of fakes, through which gradients flow."""
    with torch.no_grad():
        reals = look(training, batch.reals, batch.real_told, batch.real_noise, t_star, crops)
    return reals, look(training, fakes, batch.fake_told, batch.fake_noise, t_star, crops)


def judge_sights(
    training: Training, panel: Panel, real_sights: list[Sight], fake_sights: list[Sight]
) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """The heads' part: gradients of the student's loss by the fakes' maps and of the critics' by the heads, margins."""
    objective = training.ideas.objective_of(training.config)
    cut = [Sight([maps.detach().requires_grad_() for maps in sight], sight.pooled) for sight in fake_sights]
    real, fake = panel.score(real_sights), panel.score(cut)
    gradients = torch.autograd.grad(critics_loss(objective, real, fake), panel.leaves(), retain_graph=True)
    pulls = torch.autograd.grad(students_loss(objective, fake), flat(cut))
    return list(pulls), list(gradients), margins_of(real, fake).view(panel.slots.shape).cpu()


def flat(sights: list[Sight]) -> list[torch.Tensor]:
    """All maps of all views."""
    return [maps for sight in sights for maps in sight]


def learn(training: Training, panel: Panel, gradients: list[torch.Tensor], margins: torch.Tensor) -> None:
    """The optimisers' part: heads and student take their steps, the average follows, the pool is refreshed."""
    gather_gradient(training)
    panel.learn(gradients, training.config.critic_rate)
    training.pool.note(panel, margins)
    training.optimizer.step()
    training.average.update_parameters(training.student)
    training.pool.refresh(training.config.refresh)
