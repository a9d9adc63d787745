"""The training step of NitroFusion (arXiv 2412.02030, section 3): both losses and both updates in one function."""

import math
import time
from dataclasses import dataclass

import torch

from nitro_lab.discriminators.pool import Panel, ViewFeatures
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds, StudentStep, max_steps_at, predict_x0, sample_student_step
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.state import TrainState

__all__ = ["Batch", "StepReport", "extract_features", "sample_batch", "sample_features", "training_step"]


@dataclass(frozen=True)
class StepReport:
    """What one training step did. V views, L feature levels with heads, n sampled heads per cell.

    Attributes:
        step: counted from 1.
        student_step: which inference step of which schedule the fakes came from.
        disc_loss: L_D per sampled head.
        student_loss: L_G; NaN if the student was not updated.
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
    logit_gaps: torch.Tensor
    indices: torch.Tensor
    refreshed: torch.Tensor
    grad_norm: float
    disc_grad_norm: float
    seconds: float


def training_step(state: TrainState, step: int) -> StepReport:
    """Train the sampled heads and the student once, then refresh the pool.

    L_D is differentiated with respect to the sampled heads only, L_G with respect to the student only.

    Args:
        step: number of steps done before.

    Raises:
        FloatingPointError: if a loss or gradient is NaN or infinite; no weight is changed then.
    """
    start = time.perf_counter()
    config, pool, gan_loss = state.config, state.pool, state.gan_loss
    update_heads, update_student = _networks_to_update(config, step)
    noise_level = randint_below(len(config.t_star), state.generator)
    panel = pool.sample(noise_level, config.sampled_heads_per_cell)
    student_step = _sample_student_step(state, step)

    state.optimizer.zero_grad()
    gradients_D, reported = [], []
    for _ in range(config.gradient_accumulation_steps):
        real, fake = _score_real_and_fake(state, panel, student_step, update_student)  # logits by cell

        # L_D: the sum over heads, so that each head learns as if it were alone
        pairs = list(zip(real, fake, strict=True))
        loss_D = torch.stack([len(d_real) * gan_loss.discriminator(d_real, d_fake) for d_real, d_fake in pairs]).sum()
        gradients_D.append(torch.autograd.grad(loss_D, panel.parameters(), retain_graph=update_student))

        # L_G: the mean over heads; the only loss of the student
        loss_G = torch.stack([gan_loss.generator(d_fake) for d_fake in fake]).mean()
        if update_student:
            mean_G = loss_G / config.gradient_accumulation_steps
            state.accelerator.backward(mean_G, inputs=list(state.student.parameters()))

        gaps = [d_real.mean(1) - d_fake.mean(1) for d_real, d_fake in pairs]
        reported.append(torch.cat([loss_D[None] / panel.indices.numel(), loss_G[None], *gaps]).detach())

    means = state.accelerator.reduce(torch.stack(reported).mean(0), "mean").cpu()
    disc_loss, student_loss, logit_gaps = means[0].item(), means[1].item(), means[2:].view(panel.indices.shape)
    gradients = [state.accelerator.reduce(torch.stack(g).mean(0), "mean") for g in zip(*gradients_D, strict=True)]
    disc_grad_norm = torch.nn.utils.get_total_norm(gradients).item()
    grad_norm = _clip_student_gradient(state) if update_student else 0.0
    _check_finite(state, step, disc_loss, student_loss, grad_norm, disc_grad_norm)
    if update_heads:
        pool.step(panel, gradients, logit_gaps, config.disc_learning_rate, config.disc_adam_betas)
    if update_student:
        _update_student(state, step)
    return StepReport(
        step=step + 1,
        student_step=student_step,
        noise_level=noise_level,
        disc_loss=disc_loss,
        student_loss=student_loss if update_student else math.nan,
        logit_gaps=logit_gaps,
        indices=panel.indices,
        refreshed=pool.refresh(config.refresh_rate),
        grad_norm=grad_norm,
        disc_grad_norm=disc_grad_norm,
        seconds=time.perf_counter() - start,
    )


def _score_real_and_fake(
    state: TrainState, panel: Panel, student_step: StudentStep, update_student: bool
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits of real samples and of new fakes, one (n, logits of a head) per cell; the fakes' carry the gradient.

    Features and logits of the fakes are computed once, for both losses.
    """
    batch = sample_batch(state, multi_step=student_step.k > 1)
    t_star = state.config.t_star[panel.noise_level]
    crop_seed = randint_below(2**62, state.generator)
    with state.accelerator.autocast():
        with torch.no_grad():
            real = extract_features(state, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, crop_seed)
        with torch.set_grad_enabled(update_student):
            x0 = predict_x0(
                state.student,
                state.scheduler,
                batch.x_T,
                batch.fake_embeds,
                student_step,
                batch.generators(),
                state.config.rollout_grad,
            )
            fake = extract_features(state, x0, batch.fake_embeds, batch.fake_noise, t_star, crop_seed)
    return panel.score(real), panel.score(fake)  # outside of autocast: logit gaps are smaller than bf16's precision


def extract_features(
    state: TrainState, x0: torch.Tensor, embeds: PromptEmbeds, noise: torch.Tensor, t_star: int, crop_seed: int
) -> list[ViewFeatures]:
    """Noise x0 (B, C, H, W) to t*, and extract float32 features of every view.

    Args:
        noise: (B, C, H, W), of unit variance.
        crop_seed: random seed of the crops; real and fake samples get the same.
    """
    alpha = state.scheduler.alphas_cumprod[t_star].to(x0)
    x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    generator = torch.Generator(x0.device).manual_seed(crop_seed)
    empty = state.samples.empty_embeds[torch.zeros(len(x0), dtype=torch.long, device=x0.device)]
    inputs = [view(x_t, embeds, empty, generator) for view in state.views.values()]
    features = []
    for latents, view_embeds in inputs:
        maps = state.backbone(latents, t_star, view_embeds)
        levels = [maps[index].float() for index in state.feature_indices]
        features.append(ViewFeatures(levels, view_embeds.pooled_prompt_embeds.float()))
    return features


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


@dataclass(frozen=True)
class Batch:
    """Real samples, the noise that fakes start from, and the noise that takes both to t*.

    Attributes:
        seeds: (B,) random seeds of the noise between the inference steps of each fake; None for one-step inference.
    """

    real_x0: torch.Tensor
    real_embeds: PromptEmbeds
    x_T: torch.Tensor  # noqa: N815 (the paper's symbol)
    fake_embeds: PromptEmbeds
    real_noise: torch.Tensor
    fake_noise: torch.Tensor
    seeds: torch.Tensor | None = None

    def generators(self) -> list[torch.Generator] | None:
        """One generator per fake, so that its noise does not depend on how a batch is split over processes."""
        if self.seeds is None:
            return None
        return [torch.Generator(self.x_T.device).manual_seed(seed) for seed in self.seeds.tolist()]


def sample_batch(state: TrainState, multi_step: bool = False) -> Batch:
    """This process's share of a batch, B = batch_size / processes: real samples from disk, new noise for fakes.

    The fakes have prompts of their own. x0, x_T and noise are (B, C, H, W).
    """
    samples, generator = state.samples, state.generator
    size = state.config.batch_size
    real, fake = (
        torch.randint(count, (size,), generator=generator, device=generator.device)
        for count in (len(samples.x0), len(samples.prompts))
    )
    kinds = 2 if state.config.share_noise else 3
    x_T, *noise = torch.randn((kinds, size, *samples.x0.shape[1:]), generator=generator, device=generator.device)
    share = size // state.accelerator.num_processes
    mine = slice(state.accelerator.process_index * share, (state.accelerator.process_index + 1) * share)
    real, fake = real[mine], fake[mine]
    seeds = torch.randint(2**62, (size,), generator=generator, device=generator.device)[mine] if multi_step else None
    return Batch(
        samples.x0[real], samples.embeds[real], x_T[mine], samples.embeds[fake], noise[0][mine], noise[-1][mine], seeds
    )


def _sample_student_step(state: TrainState, step: int) -> StudentStep:
    """Which inference step of which schedule the student is trained at."""
    config = state.config
    max_steps = max_steps_at(step, config.stages, config.stage_steps)
    return sample_student_step(max_steps, config.step_sampling, config.one_step_prob, state.generator)


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


def _check_finite(
    state: TrainState, step: int, disc_loss: float, student_loss: float, grad_norm: float, disc_grad_norm: float
) -> None:
    """Stop before a NaN or an infinity reaches any weight."""
    path = state.checkpoint.path
    if not math.isfinite(disc_loss + student_loss + grad_norm + disc_grad_norm):
        raise FloatingPointError(
            f"Step {step + 1}: disc_loss {disc_loss}, student_loss {student_loss}, grad_norm {grad_norm}, "
            f"disc_grad_norm {disc_grad_norm}. This step changed no weight; "
            f"{f'the last checkpoint is {path}' if path.exists() else 'there is no checkpoint yet'}. Use a new folder "
            "with a lower learning_rate or disc_learning_rate, or another gan_loss: the linear loss is unbounded."
        )
