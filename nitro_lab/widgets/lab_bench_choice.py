"""What the lab bench's controls of one variant say: as a change for `compare`, and as the Python text of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from nitro_lab.distill_config import DistillConfig
from nitro_lab.example_heads import EXAMPLES
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.policies import (
    Draw,
    Retire,
    draw_least_updated,
    draw_uniform,
    retire_oldest,
    retire_strongest,
    retire_uniform,
    retire_weakest,
)
from nitro_lab.views import CHOICES, PAPER_VIEWS

PAPER_HEAD = next(iter(EXAMPLES))
USUAL = "as it is"  # a control that says nothing: the config's setting holds, or the example's own
VIEWS = {
    USUAL: (),
    "all three of the paper": PAPER_VIEWS,
    "whole latents only": PAPER_VIEWS[:1],
    "crops only": PAPER_VIEWS[1:],
    "all four": CHOICES,
}
OBJECTIVE_NAMES = (USUAL, *OBJECTIVES)
REFRESHES = (USUAL, 0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
PER_CELLS = (USUAL, 1, 2, 3, 4)  # below the number of slots, for a draw policy to have a choice
DRAWS: dict[str, Draw] = {USUAL: draw_uniform, "least updated": draw_least_updated}
RETIRES: dict[str, Retire] = {
    USUAL: retire_uniform,
    "the oldest": retire_oldest,
    "the weakest": retire_weakest,
    "the strongest": retire_strongest,
}
PARTS: dict[str, Any] = {
    "head": tuple(EXAMPLES),
    "views": tuple(VIEWS),
    "objective": OBJECTIVE_NAMES,
    "refresh": REFRESHES,
    "per_cell": PER_CELLS,
    "draw": tuple(DRAWS),
    "retire": tuple(RETIRES),
}


@dataclass(frozen=True)
class Choice:
    """One variant. Each part is one of the words of `PARTS`; heads may be others, see `change`."""

    head: str = PAPER_HEAD
    views: str = USUAL
    objective: str = USUAL
    refresh: float | str = USUAL
    per_cell: int | str = USUAL
    draw: str = USUAL
    retire: str = USUAL

    def settings(self) -> dict[str, Any]:
        """What the controls other than the head change."""
        said: dict[str, Any] = {
            "views": VIEWS[self.views],
            "objective": self.objective,
            "refresh": self.refresh,
            "per_cell": self.per_cell,
            "draw": DRAWS[self.draw],
            "retire": RETIRES[self.retire],
        }
        return {name: value for name, value in said.items() if getattr(self, name) != USUAL}

    def change(self, heads: Mapping[str, Any] = EXAMPLES) -> dict[str, Any]:
        """The variant for `compare`. A control that says something goes before what an example brings along.

        Args:
            heads: name -> change: a head's class, or settings.
        """
        head = heads[self.head]
        return (dict(head) if isinstance(head, Mapping) else {"head": head}) | self.settings()

    def text(self, heads: Mapping[str, Any] = EXAMPLES) -> str:
        """The same change as Python."""
        head, settings = heads[self.head], self.settings()
        said = ", ".join(f'"{name}": {name_of(value)}' for name, value in settings.items())
        place = f'EXAMPLES["{self.head}"]'
        if self.head not in EXAMPLES:
            place = name_of(head)
        if isinstance(head, Mapping):
            bare = "{" + said + "}"
            return f"{place} | {bare}" if head and said else place if head else bare
        return f'{{"head": {place}, {said}}}' if said else place


def name_of(value: Any) -> str:
    """A function or class by its name, all else as Python writes it."""
    return str(getattr(value, "__name__", repr(value)))


@dataclass(frozen=True)
class Call:
    """The call of `compare` that trains what the bench trains, one seed, and examines it too.

    choices: name -> variant; config: the bench's; heads: see `Choice.change`.
    """

    choices: Mapping[str, Choice]
    config: DistillConfig
    heads: Mapping[str, Any] = field(default_factory=lambda: EXAMPLES)

    def __str__(self) -> str:
        variants = [f'    "{name}": {choice.text(self.heads)},' for name, choice in self.choices.items()]
        told = settings_text(self.config)
        ends = f"seeds=[{self.config.seed}], steps={self.config.steps}"
        call = f"results = list(compare(changes, {ends}, config=config))"
        return "\n".join([*self.imports(), "", f"config = {told}", "changes = {", *variants, "}", call])

    def imports(self) -> list[str]:
        """Lines for the names that the text uses; a head of one's own is there already."""
        lines = ["from nitro_lab.compare import compare", "from nitro_lab.distill_config import DistillConfig"]
        texts = " ".join(choice.text(self.heads) for choice in self.choices.values())
        if "EXAMPLES" in texts:
            lines.append("from nitro_lab.example_heads import EXAMPLES")
        policies = {
            value.__name__
            for choice in self.choices.values()
            for name, value in choice.settings().items()
            if name in ("draw", "retire")
        }
        if policies:
            lines.append(f"from nitro_lab.policies import {', '.join(sorted(policies))}")
        return lines


def settings_text(config: DistillConfig) -> str:
    """`DistillConfig(...)` with what is other than its defaults; seed and steps are arguments of `compare`."""
    silent = {"seed", "steps", "separate_chance"}  # compare sets the last one itself
    changed = [
        f"{f.name}={getattr(config, f.name)!r}"
        for f in fields(config)
        if f.name not in silent and getattr(config, f.name) != f.default
    ]
    return f"DistillConfig({', '.join(changed)})"
