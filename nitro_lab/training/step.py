"""The training step of NitroFusion (arXiv 2412.02030, section 3): both losses and both updates in one function."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.losses import GANBatch
from nitro_lab.discriminators.pool import Panel
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds, StudentStep, max_steps_at, predict_x0, sample_student_step
from nitro_lab.training.batch import extract_features, rows_of_process, sample_batch
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.state import TrainState

__all__ = ["StepReport", "discriminator_loss", "sample_features", "score_batch", "student_loss", "training_step"]


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
        batch, negative = score_batch(state, panel, student_step, update_student)
        loss_D, penalty = discriminator_loss(state, batch, negative)
        gradients_D.append(torch.autograd.grad(loss_D + penalty, panel.parameters(), retain_graph=update_student))

        loss_G, term = student_loss(state, batch, update_student)
        if update_student:
            mean_G = (loss_G + term) / config.gradient_accumulation_steps
            state.accelerator.backward(mean_G, inputs=list(state.student.parameters()))

        gaps = [real.mean(1) - fake.mean(1) for real, fake in zip(batch.real_logits, batch.fake_logits, strict=True)]
        reported.append(torch.cat([loss_D[None] / panel.indices.numel(), loss_G[None], *gaps]).detach())

    means = state.accelerator.reduce(torch.stack(reported).mean(0), "mean").cpu()
    disc_loss, loss_of_student, logit_gaps = means[0].item(), means[1].item(), means[2:].view(panel.indices.shape)
    gradients = [state.accelerator.reduce(torch.stack(g).mean(0), "mean") for g in zip(*gradients_D, strict=True)]
    disc_grad_norm = torch.nn.utils.get_total_norm(gradients).item()
    grad_norm = _clip_student_gradient(state) if update_student else 0.0
    losses = {"disc_loss": disc_loss, "student_loss": loss_of_student}
    _check_finite(state, step, **losses, grad_norm=grad_norm, disc_grad_norm=disc_grad_norm)
    if update_heads:
        pool.step(panel, gradients, logit_gaps, config.disc_learning_rate, state.head_optimizer)
    if update_student:
        _update_student(state, step)
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


def discriminator_loss(state: TrainState, batch: GANBatch, negative: list[Tensor] | None) -> tuple[Tensor, Tensor]:
    """L_D and the regularizer, summed over heads, so that each head learns as if it were alone."""

    def loss_against(other: list[Tensor]) -> Tensor:
        pairs = zip(batch.real_logits, other, strict=True)
        return torch.stack([len(real) * state.gan_loss.discriminator(real, fake) for real, fake in pairs]).sum()

    loss_D = loss_against(batch.fake_logits)
    if negative:
        loss_D = (loss_D + loss_against(negative)) / 2
    penalty = state.parts.regularizer(batch) if state.parts.regularizer else torch.zeros_like(loss_D)
    return loss_D, penalty


def student_loss(state: TrainState, batch: GANBatch, update_student: bool) -> tuple[Tensor, Tensor]:
    """L_G, the mean over heads, and the student's further loss."""
    pairs = zip(batch.real_logits, batch.fake_logits, strict=True)
    loss_G = torch.stack([state.gan_loss.generator(real, fake) for real, fake in pairs]).mean()
    term = state.parts.student_loss(batch) if state.parts.student_loss and update_student else torch.zeros_like(loss_G)
    return loss_G, term


def score_batch(
    state: TrainState, panel: Panel, student_step: StudentStep, update_student: bool
) -> tuple[GANBatch, list[Tensor] | None]:
    """Score real samples and new fakes; the fakes' features and logits carry the gradient.

    Features and logits of the fakes are computed once, for both losses. Returns the logits of negatives, too.
    """
    batch = sample_batch(state, multi_step=student_step.k > 1)
    timesteps = _sample_t_star(state, panel.noise_level)[rows_of_process(state)]
    crop_seed = randint_below(2**62, state.generator)

    def extract(x0: Tensor, embeds: PromptEmbeds) -> list[ViewFeatures]:
        with state.accelerator.autocast():  # regularizers call it, too
            return extract_features(state, x0, embeds, batch.real_noise, timesteps, crop_seed)

    negative = None
    with state.accelerator.autocast():
        with torch.no_grad():
            real = extract(batch.real_x0, batch.real_embeds)
            if state.parts.negatives:
                negative = extract(*state.parts.negatives(batch.real_x0, batch.real_embeds))
        with torch.set_grad_enabled(update_student):
            rollout = (student_step, batch.generators(), state.config.rollout_grad)
            x0 = predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds, *rollout)
            fake = extract_features(state, x0, batch.fake_embeds, batch.fake_noise, timesteps, crop_seed)
    scored = GANBatch(  # heads run outside of autocast: logit gaps are smaller than bf16's precision
        real=real,
        fake=fake,
        real_logits=panel.score(real),
        fake_logits=panel.score(fake),
        real_x0=batch.real_x0,
        fake_x0=x0,
        real_embeds=batch.real_embeds,
        fake_embeds=batch.fake_embeds,
        score=panel.score,
        extract=extract,
        generator=state.pool.generator,  # so that a comparison's data do not depend on the parts
    )
    return scored, panel.score(negative) if negative else None


def _sample_t_star(state: TrainState, noise_level: int) -> Tensor:
    """Timesteps (batch_size,) that a batch is noised to: t* of the noise level, or by a law."""
    t_star, law, size = state.config.t_star[noise_level], state.parts.sample_t_star, state.config.batch_size
    if law is None:
        return torch.full((size,), t_star, device=state.generator.device)
    stats = {name: values[noise_level] for name, values in state.pool.stats().items()}
    return law(t_star, size, stats, state.pool.generator)


@torch.no_grad()
def sample_features(state: TrainState, t_star: int, seed: int = 0) -> tuple[list[ViewFeatures], list[ViewFeatures]]:
    """Features of a batch of real samples and of one of the student's, noised to t*; no random state is changed."""
    before = state.generator.get_state()
    state.generator.manual_seed(seed)
    batch = sample_batch(state)
    state.generator.set_state(before)
    x0 = predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds)
    real = extract_features(state, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, seed)
    return real, extract_features(state, x0, batch.fake_embeds, batch.fake_noise, t_star, seed)


def _networks_to_update(config: DistillConfig, step: int) -> tuple[bool, bool]:
    """Whether the heads and the student are updated in a step; during the warm-up only the heads are."""
    after_warmup = step - config.disc_warmup_steps
    if after_warmup < 0:
        return True, False
    return after_warmup % config.disc_update_freq == 0, after_warmup % config.student_update_freq == 0


def _clip_student_gradient(state: TrainState) -> float:
    """Average the student's gradient over processes and clip it. Returns its norm before clipping."""
    parameters = list(state.student.parameters())
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = state.accelerator.reduce(parameter.grad, "mean")
    return torch.nn.utils.clip_grad_norm_(parameters, state.config.max_grad_norm).item()


def _update_student(state: TrainState, step: int) -> None:
    """One AdamW step, with a linear warm-up of the learning rate, and one step of the EMA."""
    config = state.config
    warmup = (step - config.disc_warmup_steps + 1) / max(1, config.disc_warmup_steps)
    for group in state.optimizer.param_groups:
        group["lr"] = config.learning_rate * min(1.0, warmup)
    state.optimizer.step()
    state.ema.update_parameters(state.student)


def _check_finite(state: TrainState, step: int, **values: float) -> None:
    """Stop before a NaN or an infinity reaches any weight."""
    path = state.checkpoint.path
    if not all(map(math.isfinite, values.values())):
        raise FloatingPointError(
            f"Step {step + 1}: {', '.join(f'{n} {x}' for n, x in values.items())}. This step changed no weight; "
            f"{f'the last checkpoint is {path}' if path.exists() else 'there is no checkpoint yet'}. Use a new folder "
            "with a lower learning_rate or disc_learning_rate, or another gan_loss: the linear loss is unbounded."
        )
