"""The pool against a plain loop over modules, each with an optimizer of its own."""

from itertools import product

import pytest
import torch
from small_pool import BETAS, LEARNING_RATE, WEIGHT_DECAY, MeanHead, head_state, make_pool, train_step
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import hinge_d_loss
from nitro_lab.discriminators.pool import LOGIT_GAP_DECAY, DiscriminatorPool


class LoopedPool:
    """The reference: a module, an optimizer and statistics for every head, and loops over them."""

    def __init__(self, pool: DiscriminatorPool, head):
        self.pool, self.head, self.heads = pool, head, {}
        for index in product(*map(range, pool.shape)):
            self.start(index, created=0)

    def start(self, index: tuple[int, int, int, int], created: int) -> None:
        """Start a head with the parameters that the pool drew for it; its optimizer is new, or the old one."""
        params, old = head_state(self.pool, index)[0].clone(), self.heads.get(index)
        assert not old or not torch.equal(params, flat_state(old)[0])
        module = self.head((3, 5)[index[2]])
        optimizer = torch.optim.AdamW(module.parameters(), LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY)
        if old and not self.pool.reset_optimizer:
            module, optimizer = old["module"], old["optimizer"]
        vector_to_parameters(params, module.parameters())
        self.heads[index] = {
            "module": module,
            "optimizer": optimizer,
            "updates": 0,
            "created": created,
            "logit_gap": 0.0,
        }

    def step(self, panel, real, fake) -> None:
        for view, level in product(range(self.pool.shape[1]), range(self.pool.shape[2])):
            for place in panel.indices[view, level].tolist():
                head = self.heads[panel.noise_level, view, level, place]
                logits = head["module"](real[view].maps[level]), head["module"](fake[view].maps[level])
                head["optimizer"].zero_grad()
                hinge_d_loss(*logits).backward()
                head["optimizer"].step()
                gap = (logits[0].mean() - logits[1].mean()).item()
                old = head["logit_gap"] if head["updates"] else gap
                head["logit_gap"] = LOGIT_GAP_DECAY * old + (1 - LOGIT_GAP_DECAY) * gap
                head["updates"] += 1


def flat_state(head: dict) -> list[torch.Tensor]:
    """Parameters and two moments of one head of the reference, each (P,)."""
    parameters = list(head["module"].parameters())
    state = [head["optimizer"].state.get(parameter) or {} for parameter in parameters]
    moments = [
        torch.cat([s.get(name, torch.zeros_like(p)).flatten() for s, p in zip(state, parameters, strict=True)])
        for name in ("exp_avg", "exp_avg_sq")
    ]
    return [parameters_to_vector(parameters).detach(), *moments]


@pytest.mark.parametrize("head", [lambda c: MeanHead(c).double(), lambda c: ConvHead(c, width=8).double()])
@pytest.mark.parametrize(("vectorize", "reset_optimizer"), [(True, True), (False, True), (True, False)])
def test_pool_equals_a_loop_over_modules_with_their_own_optimizers(head, vectorize, reset_optimizer):
    pool = make_pool(head, vectorize=vectorize, reset_optimizer=reset_optimizer).double()
    reference, generator = LoopedPool(pool, head), torch.Generator().manual_seed(1)
    for iteration in range(1, 51):
        panel, real, fake, _ = train_step(pool, generator, noise_level=iteration % 2, heads_per_cell=2)
        reference.step(panel, real, fake)
        for index in map(tuple, pool.refresh(0.05).tolist()):
            reference.start(index, created=iteration)
    stats = pool.stats()
    for index, expected in reference.heads.items():
        # a bias before GroupNorm has a gradient of rounding errors only, and Adam divides them by its eps of 1e-8
        for ours, theirs, atol in zip(head_state(pool, index), flat_state(expected), (1e-8, 1e-12, 1e-12), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=atol)
        expected["age"] = 50 - expected["created"]
        for name, values in stats.items():
            assert values[index].item() == pytest.approx(expected[name]), name
    assert len({head["created"] for head in reference.heads.values()}) > 10
    assert len({head["updates"] for head in reference.heads.values()}) > 3
