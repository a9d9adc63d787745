"""Runs many heads of one feature level, each of which is a row of parameters."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap

from nitro_lab.discriminators.inputs import Maps, ViewFeatures, requested_inputs
from nitro_lab.randomness import randint_below, seeded

__all__ = ["LevelHeads"]


class LevelHeads:
    """Heads of one feature level.

    A head is a row of P trainable parameters and a row of Q constants: frozen parameters and buffers that are drawn at
    random, so that they differ between heads. Other buffers are shared.

    Args:
        head: makes a head from `channels`.
        channels: of the level's features, or of all levels'.
        vectorize: run heads together; False: one after another.
    """

    def __init__(self, head: Callable[[Any], nn.Module], channels: Any, device: torch.device, vectorize: bool):
        self.make = lambda: head(channels)
        self.vectorize = vectorize
        self.template = seeded(0, self.make).to(device)  # for its forward; its parameters are not used
        self.batched_forward = _batched_forward(self.template)
        self.name = type(self.template).__name__
        self.requested = requested_inputs(self.template)
        self.trained = {name: p for name, p in self.template.named_parameters() if p.requires_grad}
        other = _fixed_tensors(seeded(1, self.make).to(device))
        fixed = _fixed_tensors(self.template)
        self.constants = {name: value for name, value in fixed.items() if not torch.equal(value, other[name])}
        self.size, self.constant_size = (sum(x.numel() for x in d.values()) for d in (self.trained, self.constants))

    def initialize(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return parameters (count, P) and constants (count, Q) of new heads, as the architecture initializes them.

        They are on the CPU, so that one seed makes the same heads on every device.
        """
        seed = randint_below(2**62, generator)
        with torch.no_grad():
            rows = seeded(seed, lambda: [self._flatten(self.make()) for _ in range(count)])
        params, constants = map(torch.stack, zip(*rows, strict=True))
        return params, constants

    def _flatten(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Trainable parameters (P,) and constants (Q,) of one head."""
        values = dict(module.named_parameters()) | dict(module.named_buffers())
        dtype = values[next(iter(self.trained))].dtype
        params, constants = (
            torch.cat([torch.empty(0, dtype=dtype), *(values[name].flatten().to(dtype) for name in names)])
            for names in (self.trained, self.constants)
        )
        return params, constants

    def score(self, params: Tensor, constants: Tensor, view: ViewFeatures, place: int) -> Tensor:
        """Return the logits (n, all logits of a head) of n heads for the view's map at `place`.

        Raises:
            TypeError: if heads cannot be vectorized; the message says what to do.
            ValueError: if heads ask for an input that the view does not have.
        """
        maps, inputs = view.maps[place], view.inputs(place, self.requested)
        if not self.vectorize:
            rows = zip(params, constants, strict=True)
            return torch.stack([self._score_one(*row, maps, inputs) for row in rows])
        if self.batched_forward:
            with suppress(NotImplementedError):  # a head with replaced layers
                return self.batched_forward(self._by_name(params, constants), maps, **inputs).flatten(1)
        try:
            return vmap(lambda p, c: self._score_one(p, c, maps, inputs), randomness="different")(params, constants)
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            self._score_one(params[0], constants[0], maps, inputs)  # a head that fails by itself raises its own error
            problem = f"Heads of {self.name} cannot run together under torch.vmap: {error}"
            raise TypeError(f"{problem}\nUse vectorize=False (vectorize_heads in the settings).") from error

    def _score_one(self, params: Tensor, constants: Tensor, maps: Maps, inputs: dict[str, Any]) -> Tensor:
        """All logits of one head (P,), flat."""
        return functional_call(self.template, self._by_name(params, constants), (maps,), inputs).flatten()

    def _by_name(self, params: Tensor, constants: Tensor) -> dict[str, Tensor]:
        """Rows (..., P) and (..., Q) by name, each (..., *its shape)."""
        by_name = {}
        for row, tensors in ((params, self.trained), (constants, self.constants)):
            parts = row.split([x.numel() for x in tensors.values()], -1) if tensors else ()
            for part, (name, like) in zip(parts, tensors.items(), strict=True):
                by_name[name] = part.unflatten(-1, like.shape) if like.dim() else part.squeeze(-1)
                if not like.is_floating_point():
                    by_name[name] = by_name[name].to(like.dtype)
        return by_name


def _fixed_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Frozen parameters and buffers by name."""
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    return frozen | dict(module.named_buffers())


def _batched_forward(head: nn.Module) -> Callable[..., Tensor] | None:
    """Return a head's `batched_forward`, unless its class has none or replaces the `forward` that it computes."""
    for cls in type(head).__mro__:
        if "batched_forward" in vars(cls) or "forward" in vars(cls):
            return getattr(head, "batched_forward", None) if "batched_forward" in vars(cls) else None
    return None
