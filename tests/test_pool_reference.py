"""The pool against a plain loop over modules, each with an optimiser of its own."""

import copy
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from small_pool import BETAS, DECAY, RATE, MeanHead, make_pool, stored, train_step
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nitro_lab.heads import ConvHead
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.pool import MARGIN_MEMORY, DiscriminatorPool


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision: where a gradient is zero but for rounding, Adam would make steps of its sign."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class LoopedPool:
    """The reference: a module, an optimiser and a life for every head, and loops over them."""

    def __init__(self, pool: DiscriminatorPool):
        self.pool = pool
        self.heads = {place: self.start(place, born=0) for place in product(*map(range, pool.shape))}

    def start(self, place: tuple[int, int, int, int], born: int) -> dict:
        """A new head, with the weights that the pool drew for it."""
        flat = self.pool.heads[place[2]]
        module = copy.deepcopy(flat.template)
        vector_to_parameters(stored(self.pool, place)[0].clone(), module.parameters())
        optimizer = torch.optim.AdamW(module.parameters(), RATE, betas=BETAS, weight_decay=DECAY)
        return {"module": module, "optimizer": optimizer, "updates": 0, "born": born, "margin": 0.0}

    def learn(self, panel, real, fake) -> None:
        for view, level in product(range(self.pool.shape[1]), range(self.pool.shape[2])):
            for slot in panel.slots[view, level].tolist():
                head = self.heads[panel.noise_level, view, level, slot]
                logits = head["module"](real[view][level]), head["module"](fake[view][level])
                head["optimizer"].zero_grad()
                OBJECTIVES["hinge"].critic(*logits).backward()
                head["optimizer"].step()
                margin = (logits[0].mean() - logits[1].mean()).item()
                old = head["margin"] if head["updates"] else margin
                head["margin"] = MARGIN_MEMORY * old + (1 - MARGIN_MEMORY) * margin
                head["updates"] += 1


def flat_moments(head: dict) -> list[torch.Tensor]:
    """Weights and two moments of one head of the reference, each (P,)."""
    weights = list(head["module"].parameters())
    state = [head["optimizer"].state.get(weight) or {} for weight in weights]
    moments = [
        torch.cat([s.get(name, torch.zeros_like(w)).flatten() for s, w in zip(state, weights, strict=True)])
        for name in ("exp_avg", "exp_avg_sq")
    ]
    return [parameters_to_vector(weights).detach(), *moments]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("head", [MeanHead, lambda channels: ConvHead(channels, width=8)])
def test_equals_a_plain_loop_over_modules_with_their_own_optimisers(head, vectorize):
    pool = make_pool(head, vectorize=vectorize)
    reference, generator = LoopedPool(pool), torch.Generator().manual_seed(1)
    thrown_out = 0
    for iteration in range(1, 51):
        panel, real, fake, _ = train_step(pool, generator, noise_level=iteration % 2, per_cell=2)
        reference.learn(panel, real, fake)
        for place in pool.refresh(0.05).tolist():
            reference.heads[tuple(place)] = reference.start(tuple(place), born=iteration)
            thrown_out += 1
    census = pool.census()
    for place, wanted in reference.heads.items():
        # a bias before GroupNorm has a gradient of rounding errors only, and Adam divides them by its eps of 1e-8
        for ours, theirs, atol in zip(stored(pool, place), flat_moments(wanted), (1e-8, 1e-12, 1e-12), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=atol)
        assert census["updates"][place] == wanted["updates"]
        assert census["born"][place] == wanted["born"]
        assert census["age"][place] == 50 - wanted["born"]
        assert census["margin"][place] == pytest.approx(wanted["margin"])
    assert thrown_out > 30
    assert len({head["updates"] for head in reference.heads.values()}) > 3
