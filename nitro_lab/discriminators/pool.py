"""The pool of discriminator heads: stores, samples, scores, trains and refreshes them (arXiv 2412.02030, section 3).

A cell (noise level, view, feature level) holds several interchangeable heads. One tensor per feature level stores the
parameters of all its heads. A training step gathers the sampled ones, runs them together and updates them in place, so
its cost does not depend on the pool's size.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector
from torch.optim.adamw import adamw

from nitro_lab.discriminators import selection
from nitro_lab.randomness import randint_below, seeded

__all__ = ["LOGIT_GAP_DECAY", "DiscriminatorPool", "Panel", "ViewFeatures"]

LOGIT_GAP_DECAY = 0.9  # of a head's running mean
_adamw = partial(adamw, fused=True, amsgrad=False, maximize=False)


@dataclass(frozen=True)
class ViewFeatures:
    """Features of one view: `maps` (B, C, h, w) of each feature level, and what heads may use of the prompt (B, P)."""

    maps: Sequence[Tensor]
    pooled_prompt_embeds: Tensor | None = None


class _LevelHeads:
    """Runs heads of one feature level from their flat parameters (n, P)."""

    def __init__(self, head: Callable[[int], nn.Module], channels: int, device: torch.device, vectorize: bool):
        self.make = lambda: head(channels)
        self.vectorize = vectorize
        self.template = seeded(0, self.make).to(device)  # for its forward and constants; its parameters are not used
        self.batched_forward = _batched_forward(self.template)
        self.name = type(self.template).__name__
        self.shapes = {name: parameter.shape for name, parameter in self.template.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        self.uses_pooled_prompt = getattr(self.template, "uses_pooled_prompt", False)

    def initial_parameters(self, count: int, generator: Generator) -> Tensor:
        """Return parameters (count, P) of new heads, as the architecture initializes them."""
        seed = randint_below(2**62, generator)
        with torch.no_grad():
            rows = seeded(seed, lambda: [parameters_to_vector(self.make().parameters()) for _ in range(count)])
        return torch.stack(rows).to(generator.device)

    def score(self, params: Tensor, feature: Tensor, pooled_prompt_embeds: Tensor | None) -> Tensor:
        """Return the logits (n, all logits of a head) of n heads (n, P) for features (B, C, h, w)."""
        if self.uses_pooled_prompt and pooled_prompt_embeds is None:
            raise ValueError(f"{self.name} uses the pooled prompt; pass ViewFeatures with pooled_prompt_embeds.")
        inputs = (feature, pooled_prompt_embeds) if self.uses_pooled_prompt else (feature,)
        if not self.vectorize:
            return torch.stack([self._score_one(row, *inputs) for row in params])
        if self.batched_forward:
            with suppress(NotImplementedError):  # a head with replaced layers
                return self.batched_forward(self._by_name(params), *inputs).flatten(1)
        try:
            return vmap(self._score_one, (0, *[None] * len(inputs)), randomness="different")(params, *inputs)
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            self._score_one(params[0], *inputs)  # a head that fails by itself raises its own error
            raise TypeError(
                f"Heads of {self.name} cannot run together under torch.vmap: {error}\n"
                "Use vectorize=False (vectorize_heads in the settings) to run them one after another."
            ) from error

    def _score_one(self, row: Tensor, *inputs: Tensor | None) -> Tensor:
        """All logits of one head (P,), flat."""
        return functional_call(self.template, self._by_name(row), inputs).flatten()

    def _by_name(self, params: Tensor) -> dict[str, Tensor]:
        """Flat parameters (..., P) by name, each (..., *its shape)."""
        parts = zip(params.split(self.sizes, -1), self.shapes.items(), strict=True)
        return {name: part.unflatten(-1, shape) for part, (name, shape) in parts}


def _batched_forward(head: nn.Module) -> Callable[..., Tensor] | None:
    """Return a head's `batched_forward`, unless its class has none or replaces the `forward` that it computes."""
    for cls in type(head).__mro__:
        if "batched_forward" in vars(cls) or "forward" in vars(cls):
            return getattr(head, "batched_forward", None) if "batched_forward" in vars(cls) else None
    return None


class Panel:
    """Sampled heads of every cell of one noise level: V views, L feature levels, n heads.

    Attributes:
        noise_level: index of the noise level.
        indices: (V, L, n) index of each head within its cell.
    """

    def __init__(self, pool: "DiscriminatorPool", noise_level: int, indices: Tensor):
        self.noise_level, self.indices = noise_level, indices
        self._heads = pool.level_heads
        self._params = [
            [pool.level_state(level)[0][noise_level, view, cell].requires_grad_() for level, cell in enumerate(cells)]
            for view, cells in enumerate(indices)
        ]

    def score(self, views: Sequence[ViewFeatures]) -> list[Tensor]:
        """Return each cell's logits (n, all logits of a head), ordered by view, then by feature level.

        Raises:
            TypeError: if heads cannot be vectorized; the message says what to do.
            ValueError: if heads use the pooled prompt and a view does not have it.
        """
        return [
            heads.score(params, feature, view.pooled_prompt_embeds)
            for cells, view in zip(self._params, views, strict=True)
            for heads, params, feature in zip(self._heads, cells, view.maps, strict=True)
        ]

    def parameters(self) -> list[Tensor]:
        """Each cell's parameters (n, P), leaves of the graph, in the order of `score`."""
        return [params for cells in self._params for params in cells]


class DiscriminatorPool(nn.Module):
    """Heads for every noise level, view and feature level (4 × 3 × 10 × 4 heads in the paper), and their optimizer.

    Args:
        head: makes a head from a channel count.
        channels: of each feature level.
        generator: source of all randomness: initial parameters, sampling, refresh. The pool is on its device.
        vectorize: run the heads of a cell together; False: one after another, for heads that `torch.vmap` cannot run.
        reset_optimizer: a re-initialized head starts with an empty optimizer state; False: it keeps the old one.
        sample_heads, select_refreshed: policies, see `nitro_lab.discriminators.selection`.

    Attributes:
        shape: (noise_levels, views, levels, heads_per_cell).
        iteration: number of calls of `refresh`.
    """

    def __init__(
        self,
        head: Callable[[int], nn.Module],
        channels: Sequence[int],
        generator: Generator,
        noise_levels: int = 4,
        views: int = 3,
        heads_per_cell: int = 4,
        vectorize: bool = True,
        reset_optimizer: bool = True,
        sample_heads: selection.SamplePolicy = selection.sample_uniform,
        select_refreshed: selection.RefreshPolicy = selection.refresh_uniform,
    ):
        super().__init__()
        self.generator, self.reset_optimizer = generator, reset_optimizer
        self.sample_heads, self.select_refreshed = sample_heads, select_refreshed
        self.shape = (noise_levels, views, len(channels), heads_per_cell)
        self.level_heads = [_LevelHeads(head, width, generator.device, vectorize) for width in channels]
        for level, heads in enumerate(self.level_heads):
            params = heads.initial_parameters(noise_levels * views * heads_per_cell, generator)
            params = params.view(noise_levels, views, heads_per_cell, -1)
            self.register_buffer(f"params{level}", params)
            self.register_buffer(f"exp_avg{level}", torch.zeros_like(params))
            self.register_buffer(f"exp_avg_sq{level}", torch.zeros_like(params))
        self.iteration: Tensor
        self.updates: Tensor
        self.created: Tensor
        self.logit_gap: Tensor
        self.optimizer_steps: Tensor  # per head, as `step` in AdamW's state
        self.register_buffer("iteration", torch.tensor(0))
        for name in ("updates", "created", "optimizer_steps"):
            self.register_buffer(name, torch.zeros(self.shape, dtype=torch.long))
        self.register_buffer("logit_gap", torch.zeros(self.shape))

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

    def stats(self) -> selection.HeadStats:
        """Return copies of every head's statistics, each of the pool's shape; see `selection`."""
        copies = {name: getattr(self, name).clone() for name in ("updates", "created", "logit_gap")}
        return {"age": self.iteration - self.created} | copies

    def sample(self, noise_level: int, heads_per_cell: int = 1) -> Panel:
        """Sample heads from every cell of a noise level, without replacement, as `sample_heads` selects them.

        Raises:
            ValueError: if the noise level does not exist, or a cell has fewer heads.
        """
        self._check_noise_level(noise_level)
        if not 1 <= heads_per_cell <= self.shape[3]:
            raise ValueError(f"heads_per_cell is {heads_per_cell}; it must be from 1 to the pool's {self.shape[3]}.")
        stats = {name: values[noise_level] for name, values in self.stats().items()}
        indices = self.sample_heads(stats, heads_per_cell, self.generator).cpu()
        selection.check_sampled(indices, (*self.shape[1:3], heads_per_cell), self.shape[3])
        return Panel(self, noise_level, indices)

    def all_heads(self, noise_level: int) -> Panel:
        """Return all heads of a noise level, in order, without using the random generator."""
        self._check_noise_level(noise_level)
        return Panel(self, noise_level, torch.arange(self.shape[3]).expand(self.shape[1:]))

    def _check_noise_level(self, noise_level: int) -> None:
        """Refuse a noise level that does not exist."""
        if not 0 <= noise_level < self.shape[0]:
            raise ValueError(f"noise_level is {noise_level}; it must be from 0 to {self.shape[0] - 1}.")

    @torch.no_grad()
    def step(
        self,
        panel: Panel,
        gradients: Sequence[Tensor],
        logit_gaps: Tensor,
        learning_rate: float,
        betas: tuple[float, float] = (0.5, 0.99),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        """Update the panel's heads with AdamW (Loshchilov and Hutter 2019), each with its own step count.

        Args:
            gradients: of `panel.parameters()`.
            logit_gaps: (V, L, n) mean logit of real minus fake samples, on the CPU.
        """
        rows = [  # not copies: they are updated in place
            [state[panel.noise_level, view, index] for state in self.level_state(level)]
            for view, cells in enumerate(panel.indices.tolist())
            for level, cell in enumerate(cells)
            for index in cell
        ]
        params, exp_avg, exp_avg_sq = map(list, zip(*rows, strict=True))
        grads = [row for cell in gradients for row in cell]
        counts = self.optimizer_steps[panel.noise_level].gather(-1, panel.indices).flatten()
        steps = list(counts.to(grads[0].device, torch.float32))  # a copy, which the kernel increments
        adamw_step = partial(
            _adamw, lr=learning_rate, beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps
        )
        adamw_step(params, grads, exp_avg, exp_avg_sq, [], steps)
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

        If rate × heads is not an integer, it is rounded up or down at random, so that its mean is right.

        Returns:
            (k, 4) indices of the re-initialized heads: noise level, view, feature level, index within the cell.

        Raises:
            ValueError: if the rate is not from 0 to 1.
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate is {rate}; it must be from 0 to 1 (0.01 in the paper).")
        self.iteration += 1
        rounding = torch.rand(1, generator=self.generator, device=self.generator.device).item()
        count = int(rate * self.updates.numel() + rounding)
        indices = self.select_refreshed(self.stats(), count, self.generator).cpu()
        selection.check_refreshed(indices, count, self.shape)
        self.reinitialize(indices)
        return indices

    def reinitialize(self, indices: Tensor) -> None:
        """Re-initialize the heads at indices (k, 4): their parameters, statistics and, if so set, optimizer state."""
        for level, heads in enumerate(self.level_heads):
            noise_level, view, _, place = indices[indices[:, 2] == level].unbind(1)
            if len(place):
                params, exp_avg, exp_avg_sq = self.level_state(level)
                params[noise_level, view, place] = heads.initial_parameters(len(place), self.generator)
                if self.reset_optimizer:
                    exp_avg[noise_level, view, place] = exp_avg_sq[noise_level, view, place] = 0
        index = tuple(indices.unbind(1))
        if self.reset_optimizer:
            self.optimizer_steps[index] = 0
        self.updates[index] = 0
        self.created[index] = self.iteration
        self.logit_gap[index] = 0
