"""The training step of NitroFusion (arXiv 2412.02030, section 3): both losses and both updates in one function."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nitro_lab.checkpoint import whole
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.losses import GANBatch
from nitro_lab.discriminators.pool import Panel
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds, StudentStep, max_steps_at, predict_x0, sample_student_step
from nitro_lab.training.batch import Fakes, extract_features, sample_batch, sample_fakes
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.state import TrainState

__all__ = [
    "StepReport",
    "differentiate",
    "discriminator_loss",
    "sample_features",
    "score_batch",
    "student_loss",
    "training_step",
]


@dataclass(frozen=True)
class StepReport:
    """What one training step did. V views, L feature levels with heads, n sampled heads per cell.

    Attributes:
        step: counted from 1.
        student_step: which inference step of which schedule the fakes came from.
        disc_loss: L_D per sampled head, without a regularizer.
        student_loss: L_G, without a further loss; NaN if the student was not updated.
        logit_gaps: (V, L, n) mean logit of real minus fake samples, before the update.
        indices: (V, L, n) index of each sampled head within its cell.
        refreshed: (k, 4) re-initialized heads: noise level, view, feature level, index within the cell.
        grad_norm: of the student, before clipping; 0 if it was not updated.
        disc_grad_norm: of all sampled heads.
    """

    step: int
    student_step: StudentStep
    noise_level: int
    disc_loss: float
    student_loss: float
    logit_gaps: Tensor
    indices: Tensor
    refreshed: Tensor
    grad_norm: float
    disc_grad_norm: float
    seconds: float


def training_step(state: TrainState, step: int) -> StepReport:
    """Train the sampled heads and the student once, then refresh the pool; `step` counts the steps done before.

    L_D is differentiated with respect to the sampled heads only, L_G with respect to the student only. Raises a
    FloatingPointError if a loss or gradient is NaN or infinite; no weight is changed then.
    """
    start = time.perf_counter()
    config, pool = state.config, state.pool
    update_heads, update_student = _networks_to_update(config, step)
    noise_level = randint_below(len(config.t_star), state.generator)
    panel = pool.sample(noise_level, config.sampled_heads_per_cell)
    max_steps = max_steps_at(step, config.stages, config.stage_steps)
    student_step = sample_student_step(max_steps, config.step_sampling, config.one_step_prob, state.generator)

    state.optimizer.zero_grad()
    gradients_D, reported = [], []
    for _ in range(config.gradient_accumulation_steps):
        fakes = sample_fakes(state, noise_level, student_step, update_student)
        gradient_D, gradient_x0, values = differentiate(state, panel, fakes, update_student)
        if update_student:
            fakes.x0.backward(gradient_x0 / config.gradient_accumulation_steps)
        gradients_D.append(gradient_D)
        reported.append(values)

    gradients = _average(state, [torch.stack(g).mean(0) for g in zip(*gradients_D, strict=True)])
    norms = torch.stack([torch.nn.utils.get_total_norm(gradients), _clip_student_gradient(state, update_student)])
    means = _average(state, [torch.stack(reported).mean(0)])
    disc_loss, loss_of_student, *gaps, disc_grad_norm, grad_norm = torch.cat([*means, norms]).tolist()  # the only wait
    losses = {"disc_loss": disc_loss, "student_loss": loss_of_student}
    _check_finite(state, step, **losses, grad_norm=grad_norm, disc_grad_norm=disc_grad_norm)
    logit_gaps = torch.tensor(gaps).view(panel.indices.shape)
    if update_heads:
        pool.step(panel, gradients, logit_gaps, config.disc_learning_rate, state.head_optimizer)
    if update_student:
        _update_student(state, step, math.isfinite(grad_norm))
    return StepReport(
        step=step + 1,
        student_step=student_step,
        noise_level=noise_level,
        disc_loss=disc_loss,
        student_loss=loss_of_student if update_student else math.nan,
        logit_gaps=logit_gaps,
        indices=panel.indices,
        refreshed=pool.refresh(config.refresh_rate),
        grad_norm=grad_norm,
        disc_grad_norm=disc_grad_norm,
        seconds=time.perf_counter() - start,
    )


def differentiate(
    state: TrainState, panel: Panel, fakes: Fakes, update_student: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """L_D's gradient with respect to the heads, L_G's with respect to the fakes' x0, and what is reported.

    All views at once, or one after another: then only one view's features are in memory.
    """
    all_views = range(len(state.views))
    groups = [[view] for view in all_views] if state.config.view_by_view else [list(all_views)]
    gradients_D: list[Tensor] = []
    gradient_x0, disc_losses, student_losses, gaps = torch.zeros_like(fakes.x0), [], [], []
    with state.backbone.in_use():
        for views in groups:
            heads = panel.only(views)
            batch, negative = score_batch(state, heads, fakes, views)
            loss_D, penalty = discriminator_loss(state, batch, negative)
            gradients_D += torch.autograd.grad(loss_D + penalty, heads.parameters(), retain_graph=update_student)
            loss_G, term = student_loss(state, batch, update_student)
            if update_student:
                gradient_x0 += torch.autograd.grad(state.loss_scale * (loss_G + term), batch.fake_x0)[0] / len(groups)
            disc_losses.append(loss_D.detach() / panel.indices.numel())
            student_losses.append(loss_G.detach() / len(groups))
            pairs = zip(batch.real_logits, batch.fake_logits, strict=True)
            gaps += [(real.mean(1) - fake.mean(1)).detach() for real, fake in pairs]
    losses = [torch.stack(disc_losses).sum()[None], torch.stack(student_losses).sum()[None]]
    return gradients_D, gradient_x0, torch.cat([*losses, *gaps])


def score_batch(
    state: TrainState, panel: Panel, fakes: Fakes, views: Sequence[int] = ()
) -> tuple[GANBatch, list[Tensor] | None]:
    """Score real samples and fakes; the fakes' features and logits carry the gradient to `fake_x0`, not further.

    Features and logits of the fakes are computed once, for both losses. Returns the logits of negatives, too. `panel`
    has heads of these `views` only; empty: of all.
    """
    batch, fake_x0 = fakes.batch, fakes.x0.detach().requires_grad_(fakes.x0.requires_grad)

    def extract(x0: Tensor, embeds: PromptEmbeds, noise: Tensor = batch.real_noise) -> list[ViewFeatures]:
        return extract_features(state, x0, embeds, noise, fakes.timesteps, fakes.crop_seed, views)

    with torch.no_grad():
        real = extract(batch.real_x0, batch.real_embeds)
        negative = extract(*state.parts.negatives(batch.real_x0, batch.real_embeds)) if state.parts.negatives else None
    fake = extract(fake_x0, batch.fake_embeds, batch.fake_noise)
    scored = GANBatch(  # heads run outside of autocast: logit gaps are smaller than bf16's precision
        real=real,
        fake=fake,
        real_logits=panel.score(real),
        fake_logits=panel.score(fake),
        real_x0=batch.real_x0,
        fake_x0=fake_x0,
        real_embeds=batch.real_embeds,
        fake_embeds=batch.fake_embeds,
        score=panel.score,
        extract=extract,
        generator=state.pool.generator,  # so that a comparison's data do not depend on the parts
    )
    return scored, panel.score(negative) if negative else None


def discriminator_loss(state: TrainState, batch: GANBatch, negative: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """L_D and the regularizer, summed over heads, so that each head learns as if it were alone."""

    def loss_against(other: list[Tensor]) -> Tensor:
        cells = _by_shape(batch.real_logits, other)
        return torch.stack([len(real) * state.gan_loss.discriminator(real, fake) for real, fake in cells]).sum()

    loss_D = loss_against(batch.fake_logits)
    if negative:
        loss_D = (loss_D + loss_against(negative)) / 2
    penalty = state.parts.regularizer(batch) if state.parts.regularizer else torch.zeros_like(loss_D)
    return loss_D, penalty


def student_loss(state: TrainState, batch: GANBatch, update_student: bool) -> tuple[Tensor, Tensor]:
    """L_G, the mean over heads, and the student's further loss."""
    cells = _by_shape(batch.real_logits, batch.fake_logits)
    loss_G = torch.stack([len(real) * state.gan_loss.generator(real, fake) for real, fake in cells]).sum()
    loss_G = loss_G / sum(len(real) for real, _ in cells)
    term = state.parts.student_loss(batch) if state.parts.student_loss and update_student else torch.zeros_like(loss_G)
    return loss_G, term


def _by_shape(real: list[Tensor], fake: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Join cells whose heads have as many logits, (heads, all logits of a head): the same losses in fewer kernels."""
    shapes = dict.fromkeys(x.shape for x in real)
    same = [[place for place, x in enumerate(real) if x.shape == shape] for shape in shapes]
    return [(torch.cat([real[p] for p in places]), torch.cat([fake[p] for p in places])) for places in same]


@torch.no_grad()
def sample_features(state: TrainState, t_star: int, seed: int = 0) -> tuple[list[ViewFeatures], list[ViewFeatures]]:
    """Features of a batch of real samples and of one of the student's, noised to t*; no random state is changed."""
    before = state.generator.get_state()
    state.generator.manual_seed(seed)
    batch = sample_batch(state)
    state.generator.set_state(before)
    with state.accelerator.autocast():
        x0 = predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds)
    real = extract_features(state, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, seed)
    return real, extract_features(state, x0, batch.fake_embeds, batch.fake_noise, t_star, seed)


def _networks_to_update(config: DistillConfig, step: int) -> tuple[bool, bool]:
    """Whether the heads and the student are updated in a step; during the warm-up only the heads are."""
    after_warmup = step - config.disc_warmup_steps
    if after_warmup < 0:
        return True, False
    return after_warmup % config.disc_update_freq == 0, after_warmup % config.student_update_freq == 0


def _average(state: TrainState, tensors: list[Tensor]) -> list[Tensor]:
    """The mean over processes of tensors of one dtype, in messages of 64 tensors."""
    if state.accelerator.num_processes == 1:
        return tensors
    means: list[Tensor] = []
    for start in range(0, len(tensors), 64):
        some = tensors[start : start + 64]
        flat = state.accelerator.reduce(torch.cat([x.flatten() for x in some]), "mean")
        means += [part.view_as(x) for part, x in zip(flat.split([x.numel() for x in some]), some, strict=True)]
    return means


def _clip_student_gradient(state: TrainState, update_student: bool) -> Tensor:
    """Average the student's gradient over processes and clip it. Returns its norm before clipping."""
    if not update_student:
        return torch.zeros((), device=state.accelerator.device)
    updated = [p for p in state.trained if p.grad is not None]
    if not state.config.shard:  # else they are averaged already
        for parameter, gradient in zip(updated, _average(state, [p.grad for p in updated]), strict=True):
            parameter.grad = gradient
    if state.config.mixed_precision == "fp16":
        torch._foreach_div_([p.grad for p in updated], state.loss_scale.item())
    return whole(torch.nn.utils.clip_grad_norm_(updated, state.config.max_grad_norm))


def _update_student(state: TrainState, step: int, is_finite: bool) -> None:
    """One AdamW step, with a linear warm-up of the learning rate, and one step of the EMA.

    With float16 an overflow skips the step and halves the loss scale, which is doubled every 1,000 updates.
    """
    config = state.config
    warmup = (step - config.disc_warmup_steps + 1) / max(1, config.disc_warmup_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, warmup)
    if is_finite:
        state.optimizer.step()
        state.ema.update_parameters(state.trained)
    if config.mixed_precision == "fp16":
        update = (step - config.disc_warmup_steps) // config.student_update_freq
        state.loss_scale.mul_(0.5 if not is_finite else 2.0 if update % 1000 == 999 else 1.0)


def _check_finite(state: TrainState, step: int, **values: float) -> None:
    """Stop before a NaN or an infinity reaches any weight."""
    path = state.checkpoint.path
    if state.config.mixed_precision == "fp16" and state.loss_scale > 1:
        values["grad_norm"] = 0.0  # an overflow, after which the loss scale is halved
    if not all(map(math.isfinite, values.values())):
        raise FloatingPointError(
            f"Step {step + 1}: {', '.join(f'{n} {x}' for n, x in values.items())}. This step changed no weight; "
            f"{f'the last checkpoint is {path}' if path.exists() else 'there is no checkpoint yet'}. Use a new folder "
            "with a lower learning_rate or disc_learning_rate, or another gan_loss: the linear loss is unbounded."
        )
