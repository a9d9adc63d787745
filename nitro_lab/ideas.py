"""The parts of a run that can be swapped by code: a head, views, an objective, who is drawn, who has to go.

What a config can say in words it says in words; `Ideas` is for what it cannot. A class of ten lines is enough:

    run(DistillConfig(), Path("build/mine"), Ideas(head=MyHead))
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial

from torch import nn

from nitro_lab.code_fingerprint import code_fingerprint
from nitro_lab.distill_config import DistillConfig
from nitro_lab.heads import ConvHead
from nitro_lab.objectives import OBJECTIVES, Objective
from nitro_lab.policies import Draw, Retire, draw_uniform, retire_uniform
from nitro_lab.views import View, make_view

HeadMaker = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Ideas:
    """What replaces what the config says; None: as the config says.

    head: makes one critic from a channel count; instead of width and depth. See `nitro_lab.heads`.
    views: name -> view, or names of `nitro_lab.views.CHOICES`; instead of views, crop_size and crops.
    objective: instead of the one that the config names.
    draw, retire: who is drawn from the pool, and who is thrown out; see `nitro_lab.policies`.
    """

    head: HeadMaker | None = None
    views: Mapping[str, View] | tuple[str, ...] | None = None
    objective: Objective | None = None
    draw: Draw | None = None
    retire: Retire | None = None

    def __post_init__(self):
        """Refuse what is no idea, before anything is loaded."""
        if self.head is not None and not callable(self.head):
            raise ValueError(f"head is {self.head!r}; give a class, or a function from a channel count to a module.")
        for name in ("draw", "retire"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a policy, see nitro_lab.policies.")
        if self.views is not None and not self.views:
            raise ValueError("views is empty; give one or more views, by name.")
        if self.objective is not None and not isinstance(self.objective, Objective):
            raise ValueError(
                f"objective is {self.objective!r}; give an Objective(critic, student), or the name in the config."
            )

    def head_of(self, config: DistillConfig) -> HeadMaker:
        """What makes a critic."""
        return self.head or partial(ConvHead, width=config.width, depth=config.depth)

    def views_of(self, config: DistillConfig) -> dict[str, View]:
        """The views by name, in the pool's order."""
        views = config.views if self.views is None else self.views
        if isinstance(views, Mapping):
            return dict(views)
        return {name: make_view(name, config.crop_size, config.crops) for name in views}

    def objective_of(self, config: DistillConfig) -> Objective:
        """What both sides want."""
        return self.objective or OBJECTIVES[config.objective]

    def told_of_objective(self, config: DistillConfig) -> tuple[str, float]:
        """What curves say of the objective: its name, and the critics' loss when they know nothing."""
        return "an idea's objective" if self.objective else config.objective, self.objective_of(config).blind_loss

    def policies(self) -> tuple[Draw, Retire]:
        """Who is drawn, and who has to go."""
        return self.draw or draw_uniform, self.retire or retire_uniform

    def fingerprints(self) -> dict[str, str]:
        """A hash of the code of each idea that there is: two runs with the same are the same experiment."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: code_fingerprint(idea) for name, idea in given.items() if idea is not None}


AS_CONFIGURED = Ideas()
