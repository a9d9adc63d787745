"""One architecture of critic whose heads are rows of numbers, so that many can be stored, drawn and run at once."""

from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector

from nitro_lab.randomness import seeded
from nitro_lab.wide_head import as_papers_head, judge_side_by_side


class FlatHead:
    """Runs heads of one shape from their flat weights.

    Attributes:
        size: P, the numbers that a head has.
        papers: the template, if it is the paper's head, of which many run as one wide one; else vmap runs them.
    """

    def __init__(self, head: Callable[[int], nn.Module], channels: int, device: torch.device, vectorize: bool = True):
        self.make = lambda: head(channels)
        self.vectorize = vectorize
        self.template = seeded(0, self.make).to(device)  # its shapes are used and its constants, not its weights
        self.shapes = {name: parameter.shape for name, parameter in self.template.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self.sizes)
        self.papers = as_papers_head(self.template)
        self.takes_pooled = getattr(self.template, "takes_pooled", False)

    def fresh(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Weights of new heads (count, P), initialised as the architecture initialises itself."""
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        with torch.no_grad():
            rows = seeded(seed, lambda: [parameters_to_vector(self.make().parameters()) for _ in range(count)])
        return torch.stack(rows).to(generator.device)

    def score(self, weights: torch.Tensor, feature: torch.Tensor, pooled: torch.Tensor | None = None) -> torch.Tensor:
        """Let n heads (n, P) judge features (B, C, h, w). Returns their logits, (n, all of a head's).

        Args:
            pooled: text embeddings (B, E), for heads that take them.

        Raises:
            TypeError: if the architecture cannot be vectorised; the message says why, and what helps.
            ValueError: if the heads take the text, and there is none.
        """
        seen = (feature, pooled) if self.takes_pooled else (feature,)
        if self.takes_pooled and pooled is None:
            raise ValueError(
                f"{type(self.template).__name__} takes the pooled text embedding; give the features of each view as a "
                "nitro_lab.panel.Sight, which holds it."
            )
        if not self.vectorize:
            return torch.stack([self.judge(row, *seen) for row in weights])
        # on a map that is too small the head, under vmap, says so itself
        if self.papers and min(feature.shape[2:]) >= 2**self.papers.depth:
            return judge_side_by_side(self.papers, self.parts(weights), feature)
        try:
            in_dims = (0, *[None] * len(seen))
            return vmap(self.judge, in_dims=in_dims, randomness="different")(weights, *seen)
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            self.judge(weights[0], *seen)  # a head that fails by itself says so by itself
            raise TypeError(
                f"Heads of {type(self.template).__name__} cannot run side by side under torch.vmap: {error}\n"
                "Make the pool with vectorize=False: it then runs them one after another, which any head can."
            ) from error

    def judge(self, row: torch.Tensor, *seen: torch.Tensor) -> torch.Tensor:
        """All logits of one head (P,), flat."""
        return functional_call(self.template, self.parts(row), seen).flatten()

    def parts(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weights (..., P) as parameters by name, each (..., *shape)."""
        parts = zip(rows.split(self.sizes, -1), self.shapes.items(), strict=True)
        return {name: part.unflatten(-1, shape) for part, (name, shape) in parts}
