"""Checks of the exercises of notebook 05. Each takes an answer and says "Right", with the reason, or gives a hint."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nitro_lab.compare.table import Row
from nitro_lab.example_heads import EXAMPLES
from nitro_lab.exercises import UNANSWERED
from nitro_lab.head_contract import HeadError, check_head
from nitro_lab.ideas import HeadMaker
from nitro_lab.objectives import OBJECTIVES, Objective
from nitro_lab.policies import Retire, check_retired
from nitro_lab.randomness import seeded

CHANNELS, SIDE, IMAGES = 16, 8, 6
PLAIN = OBJECTIVES["non-saturating"]


def color_critic(head: HeadMaker | None) -> str:
    """Exercise 1: a head that sees which colours (features) there are, and not where."""
    if head is None:
        return UNANSWERED
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn((IMAGES, CHANNELS, SIDE, SIDE), generator=generator)
    try:
        check_head(head, feature, torch.zeros(IMAGES, 4))
    except HeadError as error:
        return f"Not yet: {error}"
    module = seeded(0, lambda: head(CHANNELS))
    order = torch.randperm(SIDE * SIDE, generator=generator)
    moved = feature.flatten(2)[:, :, order].view_as(feature)
    other = feature * 2 + 1
    whole, shuffled, recolored = (opinion(module, seen) for seen in (feature, moved, other))
    if not torch.allclose(whole, shuffled, rtol=1e-4, atol=1e-5):
        return (
            "Not yet: its logits changed when the places of all pixels were shuffled, so it sees where things are. "
            "Take means (or variances, or a histogram) over the map before anything looks at neighbours, or look at "
            "each pixel alone, by 1×1 convolutions."
        )
    if torch.allclose(whole, recolored, rtol=1e-4, atol=1e-5):
        return "Not yet: it does not see place, nor does it see colour: with other values its logits were the same."
    return (
        "Right: shuffling all pixels changes nothing. Does texture go unseen, then? Only as far as the map's own "
        "pixels know nothing of their neighbours: at feature level 1 each has seen 3×3 latents, at the mid block "
        "nearly the whole. The backbone has looked already; the head only cannot look again."
    )


@torch.no_grad()
def opinion(module: torch.nn.Module, feature: torch.Tensor) -> torch.Tensor:
    """An image's logits in order of size, (B, n): a shuffled map of them counts as the same."""
    return module(feature).flatten(1).sort(1).values


def retire_most_updated(policy: Retire | None) -> str:
    """Exercise 2: a retire policy that throws out those that learned most often."""
    if policy is None:
        return UNANSWERED
    shape, count = (2, 3, 4, 2), 5
    generator = torch.Generator().manual_seed(0)
    updates = torch.randperm(math.prod(shape), generator=generator).view(shape)
    age = torch.randperm(math.prod(shape), generator=generator).view(shape)
    lives = {"age": age, "updates": updates, "born": age.max() - age, "margin": torch.zeros(shape)}
    kept = {name: life.clone() for name, life in lives.items()}
    try:
        gone = policy(lives, count, generator)
        check_retired(gone, count, shape)
        policy({name: life * 0 for name, life in lives.items()}, 0, generator)
    except Exception as error:
        return f"Not yet: {type(error).__name__}: {error}"
    if any(not torch.equal(lives[name], kept[name]) for name in lives):
        return "Not yet: it changed the lives, which are the pool's own. Negate a copy: -lives['updates']."
    chosen = updates[tuple(gone.unbind(1))].sort(descending=True).values
    if torch.equal(chosen, updates.flatten().sort(descending=True).values[:count]):
        return (
            "Right: so nobody grows old in learning. All chance is left to ties, and a head that is drawn seldom stays."
        )
    if torch.equal(chosen, updates.flatten().sort().values[:count].flip(0)):
        return "Not yet: those are the least updated; `first_of` takes the lowest ranks, so the sign has to change."
    if set(age[tuple(gone.unbind(1))].tolist()) == set(age.flatten().sort().values[-count:].tolist()):
        return "Not yet: those are the oldest; the most updated need not be old. Which life counts updates?"
    return "Not yet: rank the heads by lives['updates'], and let `nitro_lab.policies.first_of` choose."


def smoothed(objective: Objective | None, smoothing: float = 0.1) -> str:
    """Exercise 3: the non-saturating form with one-sided label smoothing (Salimans et al. 2016, section 3.4)."""
    if objective is None:
        return UNANSWERED
    if not isinstance(objective, Objective):
        return f"Not yet: give an Objective(critic=..., student=...), not a {type(objective).__name__}."
    real, fake = torch.linspace(-2, 3, 7), torch.linspace(-3, 2, 7)
    try:
        made, student = objective.critic(real, fake).item(), objective.student(fake).item()
    except Exception as error:
        return f"Not yet: {type(error).__name__}: {error}"
    if not math.isclose(student, PLAIN.student(fake).item(), rel_tol=1e-4):
        return (
            "Not yet: the student's side stays as it is, non_saturating_student. Only the critics' labels are smoothed."
        )
    soft = {side: cross_entropy(logits, target).item() for side, logits, target in targets(real, fake, smoothing)}
    hard = PLAIN.critic(real, fake).item()
    wanted = soft["real"] + cross_entropy(fake, 0.0).item()
    if math.isclose(made, wanted, rel_tol=1e-4):
        return (
            f"Right: with the label {1 - smoothing:g} the best logit for a real is "
            f"{math.log((1 - smoothing) / smoothing):.2f} and no longer endless, so critics do not grow ever surer."
        )
    hints = {
        hard: "nothing is smoothed yet: the reals' label is still 1.",
        soft["real"] + soft["fake"]: "you smoothed both sides. With soft fakes a critic may want them where they are.",
        (1 - smoothing) * cross_entropy(real, 1.0).item() + cross_entropy(fake, 0.0).item(): (
            "the reals' loss has two parts: the label times softplus(−real), and (1 − label) times softplus(real)."
        ),
    }
    near = [hint for value, hint in hints.items() if math.isclose(made, value, rel_tol=1e-4)]
    return "Not yet: " + (near[0] if near else f"at label 1 − {smoothing:g} the critics' loss here is {wanted:.3f}.")


def targets(real: torch.Tensor, fake: torch.Tensor, smoothing: float) -> list[tuple[str, torch.Tensor, float]]:
    """Both sides with soft labels."""
    return [("real", real, 1 - smoothing), ("fake", fake, smoothing)]


def cross_entropy(logits: torch.Tensor, label: float) -> torch.Tensor:
    """Mean cross entropy of logits with one label for all, from 0 to 1."""
    target = torch.full_like(logits, label)
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


def mixer(answer: str | None, examples: Mapping[str, Any] = EXAMPLES) -> str:
    """Exercise 4: which example lets the images of a batch change each other's logits."""
    if answer is None:
        return UNANSWERED
    if answer not in examples:
        return f"Not yet: give one of the names {', '.join(map(repr, examples))}."
    if getattr(examples[answer], "mixes_images", False):
        return (
            "Right: it is told how much the batch varies, so its class says mixes_images = True. A student that draws "
            "one picture for everything shows there, where a critic of single images sees nothing wrong."
        )
    return "Not yet: that one judges each image by itself. Which says something about a whole batch in its class?"


def runs_left(answer: int | None, variants: int = 7, seeds: int = 5, on_disk: int = 12) -> str:
    """Exercise 5: runs that a comparison still has to make."""
    if answer is None:
        return UNANSWERED
    wanted = variants * seeds - on_disk
    if answer == wanted:
        return f"Right: {variants} · {seeds} − {on_disk} = {wanted}; the budget's line says the same before it starts."
    if answer == variants * seeds:
        return "Not yet: those are all runs. What is on disk under the same settings, code and weights is found there."
    if answer == (variants - 1) * seeds - on_disk:
        return "Not yet: the reference is a variant too, and has to be run as often as the others."
    return "Not yet: a run for each variant at each seed, without those that are found."


def shown_differences(answer: Sequence[str] | None, rows: Sequence[Row], marks: Sequence[str]) -> str:
    """Exercise 6: marks at which the interval of the second variant's difference does not hold 0; [] for none."""
    if answer is None:
        return UNANSWERED
    if isinstance(answer, str) or not set(answer) <= set(marks):
        return f"Not yet: give a list of some of {', '.join(marks)}, for example [{marks[0]!r}], or [] for none."
    parts = {mark: rows[1].differences[mark] for mark in marks if mark in rows[1].differences}
    wanted = {mark for mark, part in parts.items() if abs(part.mean) > part.half}
    told = ", ".join(f"{mark} {part}" for mark, part in parts.items())
    if set(answer) != wanted:
        return "Not yet: find those with |Δ| larger than the half of the interval behind the ±."
    if not wanted:
        return f"Right: none ({told}). So this table says nothing against, and nothing for, {rows[1].variant!r}."
    return f"Right: {told}. One mark in twenty looks so by chance alone, so ask again with new seeds first."
