"""Who is drawn from the pool, and who is thrown out.

A draw policy is a function (lives, per_cell, generator) -> slots (views, levels, per_cell), all different in a cell;
`lives` are tensors (views, levels, slots) of the noise level at hand. A retire policy is a function
(lives, count, generator) -> indices (count, 4), all different: noise level, view, feature level, slot; its lives are
(noise levels, views, levels, slots). Lives are what `DiscriminatorPool.census` tells: age, updates, born, margin; they
are the pool's own and not to be changed. All chance comes from the generator, and decides where heads are alike.
"""

from collections.abc import Callable, Mapping

import torch

Lives = Mapping[str, torch.Tensor]
Draw = Callable[[Lives, int, torch.Generator], torch.Tensor]
Retire = Callable[[Lives, int, torch.Generator], torch.Tensor]


def draw_uniform(lives: Lives, per_cell: int, generator: torch.Generator) -> torch.Tensor:
    """Every head alike, as the paper draws."""
    chance = torch.rand(lives["updates"].shape, generator=generator, device=generator.device)
    return chance.argsort(-1)[..., :per_cell]


def draw_least_updated(lives: Lives, per_cell: int, generator: torch.Generator) -> torch.Tensor:
    """Those that learned least so far, so that all learn equally often."""
    updates = lives["updates"]
    chance = torch.rand(updates.shape, generator=generator, device=generator.device, dtype=torch.float64)
    return (updates.to(chance) + chance).argsort(-1)[..., :per_cell]  # below 1: it decides between equals only


def retire_uniform(lives: Lives, count: int, generator: torch.Generator) -> torch.Tensor:
    """Every head alike, as the paper does."""
    shape = lives["age"].shape
    order = torch.randperm(shape.numel(), generator=generator, device=generator.device)
    return torch.stack(torch.unravel_index(order[:count], shape), 1)


def retire_oldest(lives: Lives, count: int, generator: torch.Generator) -> torch.Tensor:
    """Those that have been there longest."""
    return first_of(-lives["age"], count, generator)


def retire_weakest(lives: Lives, count: int, generator: torch.Generator) -> torch.Tensor:
    """Those that tell real from fake worst; a head that has not learned yet has shown nothing, so it goes last."""
    return first_of(shown(lives, lives["margin"]), count, generator)


def retire_strongest(lives: Lives, count: int, generator: torch.Generator) -> torch.Tensor:
    """Those that tell real from fake best, which may know the reals by heart; those that never learned go last."""
    return first_of(shown(lives, -lives["margin"]), count, generator)


def shown(lives: Lives, rank: torch.Tensor) -> torch.Tensor:
    """Ranks, with those heads at the end that were never drawn."""
    return rank.where(lives["updates"] > 0, torch.inf)


def first_of(rank: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Indices (count, 4) of the lowest ranks; chance decides between equals."""
    order = torch.randperm(rank.numel(), generator=generator, device=generator.device).to(rank.device)
    order = order[rank.flatten()[order].argsort(stable=True)]
    return torch.stack(torch.unravel_index(order[:count], rank.shape), 1)


def check_drawn(slots: torch.Tensor, shape: tuple[int, ...], available: int) -> None:
    """Refuse what no draw policy may answer.

    Raises:
        ValueError: if the slots have another shape, do not exist, or are drawn twice.
    """
    if slots.shape != shape or slots.is_floating_point():
        raise ValueError(
            f"The draw policy gave {slots.dtype} of shape {tuple(slots.shape)}; it must give integers of shape "
            f"{shape}: views, levels, heads a cell."
        )
    if slots.min() < 0 or slots.max() >= available:
        raise ValueError(f"The draw policy gave slots {slots.min()} to {slots.max()}; there are 0 to {available - 1}.")
    if (slots.sort(-1).values.diff(dim=-1) == 0).any():
        raise ValueError("The draw policy drew a head twice from one cell; it must draw without replacement.")


def check_retired(heads: torch.Tensor, count: int, shape: tuple[int, ...]) -> None:
    """Refuse what no retire policy may answer.

    Raises:
        ValueError: if there are too many or too few, or heads that do not exist, or one twice.
    """
    if heads.shape != (count, len(shape)) or heads.is_floating_point():
        raise ValueError(
            f"The retire policy gave {heads.dtype} of shape {tuple(heads.shape)}; it must give integers of shape "
            f"({count}, {len(shape)}): noise level, view, feature level, slot of each head that goes."
        )
    if count and ((heads < 0) | (heads >= torch.tensor(shape))).any():
        raise ValueError(f"The retire policy gave a head outside the pool, whose shape is {shape}.")
    if len(heads.unique(dim=0)) < count:
        raise ValueError("The retire policy gave a head twice; every head can go once.")
