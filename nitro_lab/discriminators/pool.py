"""The pool of discriminator heads: stores, samples, scores, trains and refreshes them (arXiv 2412.02030, section 3).

A cell (noise level, view, feature level) holds several interchangeable heads. One tensor per feature level stores the
parameters of all its heads. A training step gathers the sampled ones, runs them together and updates them in place, so
its cost does not depend on the pool's size.
"""

from collections.abc import Callable, Sequence
from copy import copy
from itertools import product

import torch
from torch import Generator, Tensor, nn

from nitro_lab.devices import to_device
from nitro_lab.discriminators import selection
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.level_heads import LevelHeads
from nitro_lab.discriminators.optimizers import HeadOptimizer, HeadRows, adamw

__all__ = ["LOGIT_GAP_DECAY", "DiscriminatorPool", "Panel", "ViewFeatures"]

LOGIT_GAP_DECAY = 0.9  # of a head's running mean


class Panel:
    """Sampled heads of every cell of one noise level: V views, L feature levels, n heads.

    Attributes:
        noise_level: index of the noise level.
        indices: (V, L, n) index of each head within its cell.
    """

    def __init__(self, pool: "DiscriminatorPool", noise_level: int, indices: Tensor):
        self.noise_level, self.indices = noise_level, indices
        self._heads = pool.level_heads
        self._cells = list(product(*map(range, indices.shape[:2])))  # view, level
        on_device = to_device(indices, pool.level_state(0)[0].device)
        rows = [(level, noise_level, view, on_device[view, level]) for view, level in self._cells]
        self._params = [pool.level_state(level)[0][n, v].index_select(0, i).requires_grad_() for level, n, v, i in rows]
        self._constants = [pool.constants(level)[n, v].index_select(0, i) for level, n, v, i in rows]

    def only(self, views: Sequence[int]) -> "Panel":
        """The same heads, but of some views, whose features `score` then gets."""
        part = copy(self)
        places = [place for place, (view, _) in enumerate(self._cells) if view in views]
        part._cells = [(views.index(self._cells[place][0]), self._cells[place][1]) for place in places]
        part._params, part._constants = ([rows[p] for p in places] for rows in (self._params, self._constants))
        return part

    def score(self, views: Sequence[ViewFeatures]) -> list[Tensor]:
        """Return each cell's logits (n, all logits of a head), ordered by view, then by feature level.

        Raises:
            TypeError: if heads cannot be vectorized; the message says what to do.
            ValueError: if heads ask for an input that a view does not have.
        """
        rows = zip(self._cells, self._params, self._constants, strict=True)
        return [
            self._heads[level].score(params, constants, views[view], level) for (view, level), params, constants in rows
        ]

    def parameters(self) -> list[Tensor]:
        """Each cell's parameters (n, P), leaves of the graph, in the order of `score`."""
        return self._params


class DiscriminatorPool(nn.Module):
    """Heads for every noise level, view and feature level (4 × 3 × 10 × 4 heads in the paper), and their optimizer.

    Args:
        head: makes a head from a channel count; from all levels' channels, if it sees all of them.
        channels: of each feature level; one list of all levels' channels for heads that see all levels.
        generator: source of all randomness: initial parameters, sampling, refresh; on the CPU.
        vectorize: run the heads of a cell together; False: one after another, for heads that `torch.vmap` cannot run.
        reset_optimizer: a re-initialized head starts with an empty optimizer state; False: it keeps the old one.
        sample_heads, select_refreshed: policies, see `nitro_lab.discriminators.selection`.
        device: of the heads and their optimizer's state; all statistics are on the CPU.

    Attributes:
        shape: (noise_levels, views, levels, heads_per_cell).
        iteration: number of calls of `refresh`.
    """

    def __init__(
        self,
        head: Callable[..., nn.Module],
        channels: Sequence[int | Sequence[int]],
        generator: Generator,
        noise_levels: int = 4,
        views: int = 3,
        heads_per_cell: int = 4,
        vectorize: bool = True,
        reset_optimizer: bool = True,
        sample_heads: selection.SamplePolicy = selection.sample_uniform,
        select_refreshed: selection.RefreshPolicy = selection.refresh_uniform,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.generator, self.reset_optimizer = generator, reset_optimizer
        self.sample_heads, self.select_refreshed = sample_heads, select_refreshed
        self.shape = (noise_levels, views, len(channels), heads_per_cell)
        device = torch.device(device)
        self.level_heads = [LevelHeads(head, width, device, vectorize) for width in channels]
        for level, heads in enumerate(self.level_heads):
            rows = heads.initialize(noise_levels * views * heads_per_cell, generator)
            params, constants = (x.to(device) for x in rows)
            cells = (noise_levels, views, heads_per_cell)
            params = params.view(*cells, heads.size)
            self.register_buffer(f"params{level}", params)
            self.register_buffer(f"constants{level}", constants.view(*cells, heads.constant_size))
            self.register_buffer(f"exp_avg{level}", torch.zeros_like(params))
            self.register_buffer(f"exp_avg_sq{level}", torch.zeros_like(params))
        self.iteration: Tensor = nn.Buffer(torch.tensor(0))
        self.updates, self.created, self.optimizer_steps = (
            nn.Buffer(torch.zeros(self.shape, dtype=torch.long)) for _ in range(3)
        )
        self.logit_gap = nn.Buffer(torch.zeros(self.shape))

    @property
    def head_sizes(self) -> list[int]:
        """Number of parameters of one head of each feature level."""
        return [heads.size for heads in self.level_heads]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of all heads."""
        return sum(self.level_state(level)[0].numel() for level in range(self.shape[2]))

    def level_state(self, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Parameters of a feature level and AdamW's two moments, each (noise_levels, views, heads_per_cell, P)."""
        return getattr(self, f"params{level}"), getattr(self, f"exp_avg{level}"), getattr(self, f"exp_avg_sq{level}")

    def constants(self, level: int) -> Tensor:
        """Frozen parameters and random buffers of a feature level's heads (noise_levels, views, heads_per_cell, Q)."""
        return getattr(self, f"constants{level}")

    def stats(self) -> selection.HeadStats:
        """Return copies of every head's statistics, each of the pool's shape; see `selection`."""
        copies = {name: getattr(self, name).clone() for name in ("updates", "created", "logit_gap")}
        return {"age": self.iteration - self.created} | copies

    def sample(self, noise_level: int, heads_per_cell: int = 1) -> Panel:
        """Sample heads from every cell of a noise level, without replacement, as `sample_heads` selects them.

        Raises a ValueError if the noise level does not exist, or a cell has fewer heads.
        """
        self._check_noise_level(noise_level)
        if not 1 <= heads_per_cell <= self.shape[3]:
            raise ValueError(f"heads_per_cell is {heads_per_cell}; it must be from 1 to the pool's {self.shape[3]}.")
        stats = {name: values[noise_level] for name, values in self.stats().items()}
        indices = self.sample_heads(stats, heads_per_cell, self.generator)
        selection.check_sampled(indices, (*self.shape[1:3], heads_per_cell), self.shape[3])
        return Panel(self, noise_level, indices)

    def all_heads(self, noise_level: int) -> Panel:
        """Return all heads of a noise level, in order, without using the random generator."""
        self._check_noise_level(noise_level)
        return Panel(self, noise_level, torch.arange(self.shape[3]).expand(self.shape[1:]))

    def _check_noise_level(self, noise_level: int) -> None:
        if not 0 <= noise_level < self.shape[0]:
            raise ValueError(f"noise_level is {noise_level}; it must be from 0 to {self.shape[0] - 1}.")

    @torch.no_grad()
    def step(
        self,
        panel: Panel,
        gradients: Sequence[Tensor],
        logit_gaps: Tensor,
        learning_rate: float,
        optimizer: HeadOptimizer = adamw,
    ) -> None:
        """Update the panel's heads, each with its own optimizer state and step count.

        Args:
            gradients: of `panel.parameters()`.
            logit_gaps: (V, L, n) mean logit of real minus fake samples, on the CPU.
            optimizer: see `nitro_lab.discriminators.optimizers`.
        """
        rows = [  # not copies: they are updated in place
            [state[panel.noise_level, view, index] for state in self.level_state(level)]
            for view, cells in enumerate(panel.indices.tolist())
            for level, cell in enumerate(cells)
            for index in cell
        ]
        params, exp_avg, exp_avg_sq = map(list, zip(*rows, strict=True))
        grads = [row for cell in gradients for row in cell]
        counts = self.optimizer_steps[panel.noise_level].gather(-1, panel.indices).flatten().float()
        steps = list(to_device(counts, grads[0].device))  # a copy, which the optimizer increments
        optimizer(HeadRows(params, grads, exp_avg, exp_avg_sq, steps), learning_rate)
        self._count_update(panel, logit_gaps)

    def _count_update(self, panel: Panel, logit_gaps: Tensor) -> None:
        """Count an update of the panel's heads, and update their mean logit gaps."""
        views, levels = torch.arange(self.shape[1])[:, None, None], torch.arange(self.shape[2])[None, :, None]
        index = (torch.tensor(panel.noise_level), views, levels, panel.indices)
        old = torch.where(self.updates[index] == 0, logit_gaps, self.logit_gap[index])
        self.logit_gap[index] = LOGIT_GAP_DECAY * old + (1 - LOGIT_GAP_DECAY) * logit_gaps
        self.updates[index] += 1
        self.optimizer_steps[index] += 1

    def refresh(self, rate: float) -> Tensor:
        """Re-initialize a fraction of all heads, as `select_refreshed` selects them, and end the iteration.

        If rate × heads is not an integer, it is rounded up or down at random, so that its mean is right. Returns (k, 4)
        indices of the heads: noise level, view, feature level, index within the cell. Raises a ValueError if the rate
        is not from 0 to 1.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}; it must be from 0 to 1 (0.01 in the paper).")
        self.iteration += 1
        rounding = torch.rand(1, generator=self.generator).item()
        count = int(rate * self.updates.numel() + rounding)
        indices = self.select_refreshed(self.stats(), count, self.generator)
        selection.check_refreshed(indices, count, self.shape)
        self.reinitialize(indices)
        return indices

    def reinitialize(self, indices: Tensor) -> None:
        """Re-initialize the heads at indices (k, 4): their parameters, statistics and, if so set, optimizer state."""
        for level, heads in enumerate(self.level_heads):
            rows = indices[indices[:, 2] == level].tolist()
            if not rows:
                continue
            params, exp_avg, exp_avg_sq = self.level_state(level)
            new = (to_device(x, params.device) for x in heads.initialize(len(rows), self.generator))
            for (noise_level, view, _, place), new_params, new_constants in zip(rows, *new, strict=True):
                params[noise_level, view, place] = new_params
                self.constants(level)[noise_level, view, place] = new_constants
                if self.reset_optimizer:
                    for moments in (exp_avg, exp_avg_sq):
                        moments[noise_level, view, place].zero_()
        index = tuple(indices.unbind(1))
        if self.reset_optimizer:
            self.optimizer_steps[index] = 0
        self.updates[index] = 0
        self.created[index] = self.iteration
        self.logit_gap[index] = 0
