"""The pool against a plain loop over modules, each with an optimizer of its own."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from small_pool import BETAS, LEARNING_RATE, WEIGHT_DECAY, MeanHead, head_state, make_pool, train_step
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.losses import hinge_d_loss
from nitro_lab.discriminators.optimizers import HeadRows, clipped, rmsprop
from nitro_lab.discriminators.pool import LOGIT_GAP_DECAY, DiscriminatorPool

ADAMW = partial(torch.optim.AdamW, betas=BETAS, weight_decay=WEIGHT_DECAY)


class LoopedPool:
    """The reference: a module, an optimizer and statistics for every head, and loops over them."""

    def __init__(self, pool: DiscriminatorPool, head, optimizer=ADAMW, max_norm: float = math.inf):
        self.pool, self.head, self.optimizer, self.max_norm, self.heads = pool, head, optimizer, max_norm, {}
        for index in product(*map(range, pool.shape)):
            self.start(index, created=0)

    def start(self, index: tuple[int, int, int, int], created: int) -> None:
        """Start a head with the parameters that the pool drew for it; its optimizer is new, or the old one."""
        params, old = head_state(self.pool, index)[0].clone(), self.heads.get(index)
        assert not old or not torch.equal(params, flat_state(old)[0])
        module = self.head((3, 5)[index[2]])
        optimizer = self.optimizer(module.parameters(), LEARNING_RATE)
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
                clip_grad_norm_(head["module"].parameters(), self.max_norm)
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


def sgd(rows: HeadRows, learning_rate: float) -> None:
    """The shortest optimizer of one's own."""
    for parameter, gradient in zip(rows.params, rows.grads, strict=True):
        parameter -= learning_rate * gradient


@pytest.mark.parametrize(
    ("optimizer", "reference", "max_norm"),
    [
        (rmsprop, partial(torch.optim.RMSprop, alpha=0.99, eps=1e-8), math.inf),
        (clipped(sgd, 0.3), torch.optim.SGD, 0.3),  # some heads' gradients are shorter, some longer
    ],
)
def test_other_optimizers_are_torchs_for_each_head_by_itself(optimizer, reference, max_norm):
    def head(channels: int) -> MeanHead:
        return MeanHead(channels).double()

    pool, generator, norms = make_pool(head).double(), torch.Generator().manual_seed(1), []
    looped = LoopedPool(pool, head, reference, max_norm)

    def recorded(rows: HeadRows, learning_rate: float) -> None:
        norms.extend(gradient.norm().item() for gradient in rows.grads)
        optimizer(rows, learning_rate)

    for iteration in range(20):
        looped.step(*train_step(pool, generator, iteration % 2, 2, recorded)[:3])
        for index in map(tuple, pool.refresh(0.05).tolist()):
            looped.start(index, created=iteration)
    for index, expected in looped.heads.items():
        params, _, squares = head_state(pool, index)
        torch.testing.assert_close(params, parameters_to_vector(expected["module"].parameters()).detach())
        state = expected["optimizer"].state.values()
        if reference is not torch.optim.SGD and state:
            torch.testing.assert_close(squares, torch.cat([values["square_avg"].flatten() for values in state]))
    assert min(norms) < 0.3 < max(norms)
