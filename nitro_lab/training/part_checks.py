"""Tries replaced parts on one batch, so that a part that does not fit fails before the training."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nitro_lab.discriminators.losses import GANBatch
from nitro_lab.discriminators.optimizers import HeadRows
from nitro_lab.discriminators.selection import check_refreshed
from nitro_lab.sampling import ONE_STEP, PromptEmbeds
from nitro_lab.training.batch import sample_fakes
from nitro_lab.training.parts import Parts
from nitro_lab.training.state import TrainState
from nitro_lab.training.step import score_batch

__all__ = ["PartError", "check_parts"]


class PartError(ValueError):
    """A replaced part does not fit."""


def check_parts(state: TrainState) -> None:
    """Call each replaced part once; the training is not changed.

    Raises a PartError if one fails, or returns something else than it must; the message says what.
    """
    if state.parts == Parts():
        return
    generators = [state.generator, state.pool.generator]
    before = [generator.get_state() for generator in generators]
    try:
        _check_selection(state)
        _check_samples(state)
        panel = state.pool.sample(0, state.config.sampled_heads_per_cell)
        fakes = sample_fakes(state, 0, ONE_STEP, update_student=True)
        with state.backbone.in_use():
            batch, _ = score_batch(state, panel, fakes)
            _check_losses(state, batch, panel.parameters())
        _check_optimizer(state)
    finally:
        for generator, saved in zip(generators, before, strict=True):
            generator.set_state(saved)


def _call(name: str, part: Callable[..., Any], *inputs: Any) -> Any:
    try:
        return part(*inputs)
    except Exception as error:
        raise PartError(f"{name} fails: {type(error).__name__}: {error}") from error


def _check_selection(state: TrainState) -> None:
    pool, count = state.pool, 1  # some pools have one head
    _call("sample_heads", pool.sample, 0, state.config.sampled_heads_per_cell)
    indices = _call("select_refreshed", pool.select_refreshed, pool.stats(), count, pool.generator)
    _call("select_refreshed", check_refreshed, indices, count, pool.shape)


def _check_samples(state: TrainState) -> None:
    """Timesteps of the noise, and negatives."""
    parts, samples = state.parts, state.samples
    if parts.sample_t_star:
        stats = {name: values[0] for name, values in state.pool.stats().items()}
        t = _call("sample_t_star", parts.sample_t_star, state.config.t_star[0], 4, stats, state.pool.generator)
        if getattr(t, "shape", None) != (4,) or t.is_floating_point() or t.min() < 0 or t.max() > 999:
            raise PartError(f"sample_t_star returned {t} for 4 images; it must return 4 integers from 0 to 999.")
    if parts.negatives:
        x0 = samples.x0[:4].to(state.accelerator.device)
        match _call("negatives", parts.negatives, x0, samples.embeds[: len(x0)].to(x0.device)):
            case (Tensor(shape=x0.shape), PromptEmbeds()):
                pass
            case wrong:
                raise PartError(f"negatives returned {type(wrong).__name__}; it must return (x0 of its shape, embeds).")


def _check_losses(state: TrainState, batch: GANBatch, heads: list[Tensor]) -> None:
    """Losses are scalars that depend on what they train."""
    student, logits = [batch.fake_x0], (batch.real_logits[0], batch.fake_logits[0])
    checks: list[tuple[str, Callable[..., Any] | None, tuple[Any, ...], list[Tensor]]] = [
        ("gan_loss.discriminator", state.gan_loss.discriminator, logits, heads),
        ("gan_loss.generator", state.gan_loss.generator, logits, student),
        ("regularizer", state.parts.regularizer, (batch,), heads),
        ("student_loss", state.parts.student_loss, (batch,), student),
    ]
    for name, part, inputs, trained in checks:
        if part is None:
            continue
        loss = _call(name, part, *inputs)
        if not isinstance(loss, Tensor) or loss.dim():
            got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise PartError(f"{name} returned {got}; it must return a scalar, such as a mean or a sum.")
        found = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        if all(gradient is None for gradient in found):
            whom = "student" if trained is student else "sampled heads"
            raise PartError(f"{name} does not depend on the {whom}; look for detach, item or no_grad.")


def _check_optimizer(state: TrainState) -> None:
    """The heads' optimizer, on a copy of one head."""
    params = state.pool.level_state(0)[0][0, 0, 0].clone()
    rows = HeadRows(*([x] for x in (params, torch.ones_like(params), 0 * params, 0 * params, params.new_zeros(()))))
    _call("head_optimizer", state.head_optimizer, rows, 1e-3)
    if torch.equal(params, state.pool.level_state(0)[0][0, 0, 0]):
        raise PartError("head_optimizer changed no parameter; it must update the rows in place.")
