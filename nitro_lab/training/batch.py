"""What one training step sees: samples, noise, and the backbone's features of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.utils.checkpoint import checkpoint

from nitro_lab.devices import to_device
from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.views import view_features
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import PromptEmbeds, StudentStep, predict_x0
from nitro_lab.training.state import TrainState

__all__ = ["Batch", "Fakes", "extract_features", "rows_of_process", "sample_batch", "sample_fakes"]


@dataclass(frozen=True)
class Batch:
    """Real samples, the noise that fakes start from, and the noise that takes both to t*.

    x0, x_T and noise are (B, C, H, W); seeds (B,) are random seeds of the noise between the inference steps of each
    fake, None for one-step inference.
    """

    real_x0: Tensor
    real_embeds: PromptEmbeds
    x_T: Tensor  # noqa: N815 (the paper's symbol)
    fake_embeds: PromptEmbeds
    real_noise: Tensor
    fake_noise: Tensor
    seeds: Tensor | None = None

    def generators(self) -> list[Generator] | None:
        """One generator per fake, so that its noise does not depend on how a batch is split over processes."""
        return None if self.seeds is None else [Generator().manual_seed(seed) for seed in self.seeds.tolist()]


def sample_batch(state: TrainState, multi_step: bool = False) -> Batch:
    """This process's share of a batch, B = batch_size / processes: real samples from disk, new noise for fakes.

    The fakes have noise and prompts of their own, or those of the reals (`pairing`). Everything is drawn on the CPU, so
    that one seed gives the same batch on every device.
    """
    samples, generator = state.samples, state.generator
    size, mine = state.config.batch_size, rows_of_process(state)
    real, fake = (
        torch.randint(count, (size,), generator=generator)[mine] for count in (len(samples.x0), len(samples.prompts))
    )
    kinds = 2 if state.config.share_noise else 3
    x_T, *noise = torch.randn((kinds, size, *samples.x0.shape[1:]), generator=generator)[:, mine]
    if state.config.pairing == "same_noise":
        fake, x_T = real, samples.x_T[real]
    seeds = torch.randint(2**62, (size,), generator=generator)[mine] if multi_step else None
    tensors = [to_device(x, state.accelerator.device) for x in (samples.x0[real], x_T, noise[0], noise[-1])]
    embeds = [samples.embeds[rows].to(state.accelerator.device) for rows in (real, fake)]
    return Batch(tensors[0], embeds[0], tensors[1], embeds[1], tensors[2], tensors[3], seeds)


@dataclass(frozen=True)
class Fakes:
    """The student's samples of a batch: x0 (B, C, H, W) with the student's graph, and what is done to both sides.

    timesteps (B,), on the CPU, are what both are noised to; crop_seed is the random seed of the crops.
    """

    batch: Batch
    x0: Tensor
    timesteps: Tensor
    crop_seed: int


def sample_fakes(state: TrainState, noise_level: int, student_step: StudentStep, update_student: bool) -> Fakes:
    """Sample a batch, and the student for it; with a graph if the student is to be updated."""
    batch = sample_batch(state, multi_step=student_step.k > 1)
    timesteps = _sample_t_star(state, noise_level)[rows_of_process(state)]
    crop_seed = randint_below(2**62, state.generator)

    def predict() -> Tensor:
        rollout = (student_step, batch.generators(), state.config.rollout_grad)  # new generators: the same noise
        return predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds, *rollout)

    again = update_student and state.config.view_by_view  # in the backward pass: no graph while the heads are trained
    with torch.set_grad_enabled(update_student), state.accelerator.autocast():
        x0 = checkpoint(predict, use_reentrant=False, preserve_rng_state=False) if again else predict()
    return Fakes(batch, x0, timesteps, crop_seed)


def _sample_t_star(state: TrainState, noise_level: int) -> Tensor:
    """Timesteps (batch_size,) that a batch is noised to, on the CPU: t* of the noise level, or by a law."""
    t_star, law, size = state.config.t_star[noise_level], state.parts.sample_t_star, state.config.batch_size
    if law is None:
        return torch.full((size,), t_star)
    stats = {name: values[noise_level] for name, values in state.pool.stats().items()}
    return law(t_star, size, stats, state.pool.generator)


def rows_of_process(state: TrainState) -> slice:
    """This process's rows of a batch of `batch_size`."""
    share = state.config.batch_size // state.accelerator.num_processes
    return slice(state.accelerator.process_index * share, (state.accelerator.process_index + 1) * share)


def extract_features(
    state: TrainState,
    x0: Tensor,
    embeds: PromptEmbeds,
    noise: Tensor,
    t_star: Tensor | int,
    crop_seed: int,
    views: Sequence[int] = (),
) -> list[ViewFeatures]:
    """Noise x0 (B, C, H, W) to t*, and extract float32 features of every view.

    Args:
        noise: (B, C, H, W), of unit variance.
        t_star: timesteps (B,) on the CPU, or one for all.
        crop_seed: random seed of the crops; real and fake samples get the same.
        views: indices of the views; empty: all.
    """
    timesteps = torch.as_tensor(t_star).expand(len(x0))
    x_t = x0
    if state.backbone.noisy:
        alpha = to_device(state.scheduler.alphas_cumprod[timesteps].to(x0.dtype), x0.device).view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    with state.accelerator.autocast():
        return view_features(
            x_t,
            to_device(timesteps, x0.device),
            embeds,
            state.empty_embeds.expand(len(x0)),
            state.views,
            state.backbone,
            state.feature_indices,
            state.all_levels,
            Generator().manual_seed(crop_seed),
            views,
        )
