"""What discriminator heads get: feature maps, and what else their `forward` asks for by name."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

__all__ = ["Maps", "ViewFeatures", "as_list", "bind_text_dim", "channels_of", "requested_inputs", "sees_all_levels"]

Maps = Tensor | Sequence[Tensor]  # of one feature level, or of all levels for heads that see all of them

_REQUESTABLE = ("pooled_prompt_embeds", "t_star", "view", "level")


@dataclass(frozen=True)
class ViewFeatures:
    """Features of one view, B rows: images, or crops of them.

    Attributes:
        maps: (B, C, h, w) of each feature level; one list of all maps if the heads see all levels.
        pooled_prompt_embeds: (B, P), the empty prompt's in unconditional views.
        t_star: (B,) timesteps that the images were noised to.
        view: index of the view.
        levels: indices of the feature levels in the backbone; by default 0, 1, ...
    """

    maps: Sequence[Maps]
    pooled_prompt_embeds: Tensor | None = None
    t_star: Tensor | None = None
    view: int = 0
    levels: Sequence[int] = ()

    def inputs(self, place: int, names: Sequence[str]) -> dict[str, Any]:
        """The inputs of these names, for the heads on the map at `place`; a ValueError if one was not given."""
        level = self.levels[place] if self.levels else place
        known = {"pooled_prompt_embeds": self.pooled_prompt_embeds, "t_star": self.t_star}
        inputs = {name: (known | {"view": self.view, "level": level})[name] for name in names}
        if missing := [name for name, value in inputs.items() if value is None]:
            raise ValueError(f"Heads ask for {', '.join(missing)}; pass ViewFeatures with it.")
        return inputs

    def changed(self, change: Callable[[Tensor], Tensor]) -> "ViewFeatures":
        """The same view with other maps, for example `view.changed(torch.detach)`."""
        maps = [change(x) if isinstance(x, Tensor) else [change(y) for y in x] for x in self.maps]
        return ViewFeatures(maps, self.pooled_prompt_embeds, self.t_star, self.view, self.levels)


def as_list(maps: Maps) -> list[Tensor]:
    """The map of one level, or those of all, as a list."""
    return [maps] if isinstance(maps, Tensor) else list(maps)


def channels_of(view: ViewFeatures) -> list[int | list[int]]:
    """Channels of each level's map; of all levels as one list for heads that see all of them."""
    return [x.shape[1] if isinstance(x, Tensor) else [y.shape[1] for y in x] for x in view.maps]


def requested_inputs(module: nn.Module) -> list[str]:
    """Names of the inputs, besides the features, that a head's `forward` asks for."""
    return [name for name in inspect.signature(module.forward).parameters if name in _REQUESTABLE]


def sees_all_levels(head: Callable[..., nn.Module]) -> bool:
    """Whether a head's class (or a `partial` of it) sets `all_levels = True`."""
    cls: Any = head
    while isinstance(cls, partial):
        cls = cls.func
    return bool(getattr(cls, "all_levels", False))


def bind_text_dim(head: Callable[..., nn.Module], text_dim: int) -> Callable[..., nn.Module]:
    """Return a function of the channels only, also for a head whose constructor asks for `text_dim`."""
    try:
        asks = "text_dim" in inspect.signature(head).parameters
    except (TypeError, ValueError):  # some built-in callables have no signature
        asks = False
    return partial(head, text_dim=text_dim) if asks else head
