"""The pool of critics: every head of one level is a row of numbers, with its own optimiser state and its own life.

A head sits in a cell (noise level, view, feature level) and a slot of it. Since all heads of one feature level have one
shape, a level keeps them as one tensor, a row a head; a training step gathers the rows of the panel that it draws, runs
them side by side, and puts them back. So it costs what the panel costs, however large the pool is.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from nitro_lab.flat_head import FlatHead
from nitro_lab.panel import Panel
from nitro_lab.policies import Draw, Retire, check_drawn, check_retired, draw_uniform, retire_uniform

MARGIN_MEMORY = 0.9  # share of the old value when a head's mean margin takes in a new one


class DiscriminatorPool(nn.Module):
    """Storage of noise levels × views × feature levels × slots heads (arXiv 2412.02030, section 3: 4 × 3 × 10 × 4).

    Args:
        head: makes one head from a channel count.
        channels: of each feature level.
        noise_levels, views, slots: how many of each; heads in the slots of a cell are interchangeable.
        generator: source of all chance: first weights, draws, refreshes. The pool lives on its device.
        vectorize: run the heads of a cell at once, by `torch.vmap` or, the paper's, by `nitro_lab.wide_head`; False:
            one after another, for heads that cannot.
        refresh_clears: a new head starts with empty moments; False: it takes over those of the head it replaces, and
            their step count.
        draw, retire: who is drawn, and who has to go; see `nitro_lab.policies`.
    """

    def __init__(
        self,
        head: Callable[[int], nn.Module],
        channels: Sequence[int],
        generator: torch.Generator,
        noise_levels: int = 4,
        views: int = 3,
        slots: int = 4,
        vectorize: bool = True,
        refresh_clears: bool = True,
        draw: Draw = draw_uniform,
        retire: Retire = retire_uniform,
    ):
        super().__init__()
        self.generator = generator
        self.draw_policy, self.retire_policy = draw, retire
        self.shape = (noise_levels, views, len(channels), slots)
        self.heads = [FlatHead(head, width, generator.device, vectorize) for width in channels]
        rows = noise_levels * views * slots
        for level, flat in enumerate(self.heads):
            self.register_buffer(f"weights{level}", flat.fresh(rows, generator))
            self.register_buffer(f"first{level}", torch.zeros(rows, flat.size, device=generator.device))
            self.register_buffer(f"second{level}", torch.zeros(rows, flat.size, device=generator.device))
        count = torch.zeros(self.shape, dtype=torch.long)
        self.iteration: torch.Tensor
        self.updates: torch.Tensor
        self.born: torch.Tensor
        self.margins: torch.Tensor
        self.register_buffer("iteration", torch.tensor(0))
        self.register_buffer("updates", count.clone())
        self.register_buffer("born", count.clone())
        self.register_buffer("margins", torch.zeros(self.shape))
        self.inherited: torch.Tensor | None  # gradients in the moments from before the head was born
        self.register_buffer("inherited", None if refresh_clears else count.clone())

    def state(self, level: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights and Adam's two moments of a feature level, each (rows, P); `row` tells which row is whose."""
        return getattr(self, f"weights{level}"), getattr(self, f"first{level}"), getattr(self, f"second{level}")

    def row(self, noise_level: int | torch.Tensor, view: int | torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Rows of some slots of a cell."""
        _, views, _, width = self.shape
        return (noise_level * views + view) * width + slots

    def draw(self, noise_level: int, per_cell: int = 1) -> Panel:
        """The panel of one step: `per_cell` heads, drawn without replacement, from each cell of a noise level.

        The pool's draw policy chooses them; by default chance alone.

        Raises:
            ValueError: if the noise level does not exist, or a cell has fewer slots.
        """
        noise_levels, _, _, slots = self.shape
        if not 0 <= noise_level < noise_levels:
            raise ValueError(f"noise_level is {noise_level}; the pool has 0 to {noise_levels - 1}.")
        if not 1 <= per_cell <= slots:
            raise ValueError(f"per_cell is {per_cell}; it must be from 1 to the pool's {slots} slots a cell.")
        lives = {name: life[noise_level] for name, life in self.lives().items()}
        drawn = self.draw_policy(lives, per_cell, self.generator).cpu()
        check_drawn(drawn, (*self.shape[1:3], per_cell), slots)
        return Panel(self, noise_level, drawn)

    def refresh(self, fraction: float) -> torch.Tensor:
        """End an iteration: throw away this share of all heads and start new ones. Who goes, the retire policy says.

        Where the share is no whole number of heads, chance decides between the two next to it.

        Returns:
            (k, 4) indices of the heads that went: noise level, view, feature level, slot.

        Raises:
            ValueError: if the fraction is not from 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction}; it must be from 0 to 1 (the paper's is 0.01).")
        self.iteration += 1
        chance = torch.rand(1, generator=self.generator, device=self.generator.device).item()
        count = int(fraction * self.updates.numel() + chance)
        heads = self.retire_policy(self.lives(), count, self.generator).cpu()
        check_retired(heads, count, self.shape)
        self.replace(heads)
        return heads

    def replace(self, heads: torch.Tensor) -> None:
        """Start afresh the heads at indices (k, 4)."""
        for level, flat in enumerate(self.heads):
            noise_level, view, _, slot = heads[heads[:, 2] == level].unbind(1)
            rows = self.row(noise_level, view, slot)
            if len(rows):
                weights, first, second = self.state(level)
                weights[rows] = flat.fresh(len(rows), self.generator)
                if self.inherited is None:
                    first[rows] = 0
                    second[rows] = 0
        index = tuple(heads.unbind(1))
        if self.inherited is not None:
            self.inherited[index] += self.updates[index]
        self.updates[index] = 0
        self.born[index] = self.iteration
        self.margins[index] = 0

    def note(self, panel: Panel, margins: torch.Tensor) -> None:
        """Count an update of the panel's heads, and take in their margins (views, levels, per_cell)."""
        views, levels, _ = panel.slots.shape
        index = (
            torch.tensor(panel.noise_level),
            torch.arange(views)[:, None, None],
            torch.arange(levels)[None, :, None],
            panel.slots,
        )
        fresh = self.updates[index] == 0
        old = torch.where(fresh, margins, self.margins[index])
        self.margins[index] = MARGIN_MEMORY * old + (1 - MARGIN_MEMORY) * margins
        self.updates[index] += 1

    def moment_steps(self) -> torch.Tensor:
        """How many gradients each head's moments have taken in, in the pool's shape: Adam's step count."""
        return self.updates if self.inherited is None else self.updates + self.inherited

    def census(self) -> dict[str, np.ndarray]:
        """Life of every head, each (noise levels, views, feature levels, slots).

        age: iterations since it was made; updates: training steps since then; born: the iteration that made it;
        margin: running mean of its logit's difference between real and fake, 0 for a head that was never drawn.
        """
        return {name: values.numpy(force=True).copy() for name, values in self.lives().items()}

    def lives(self) -> dict[str, torch.Tensor]:
        """The census as tensors, for policies: the pool's own, not to be changed."""
        age = self.iteration - self.born
        return {"age": age, "updates": self.updates, "born": self.born, "margin": self.margins}
