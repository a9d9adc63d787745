"""What one training step sees: samples, noise, and the backbone's features of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nitro_lab.discriminators.inputs import ViewFeatures
from nitro_lab.discriminators.views import view_features
from nitro_lab.sampling import PromptEmbeds
from nitro_lab.training.state import TrainState

__all__ = ["Batch", "extract_features", "rows_of_process", "sample_batch"]


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

    def generators(self) -> list[torch.Generator] | None:
        """One generator per fake, so that its noise does not depend on how a batch is split over processes."""
        if self.seeds is None:
            return None
        return [torch.Generator(self.x_T.device).manual_seed(seed) for seed in self.seeds.tolist()]


def sample_batch(state: TrainState, multi_step: bool = False) -> Batch:
    """This process's share of a batch, B = batch_size / processes: real samples from disk, new noise for fakes.

    The fakes have noise and prompts of their own, or those of the reals (`pairing`).
    """
    samples, generator = state.samples, state.generator
    size = state.config.batch_size
    real, fake = (
        torch.randint(count, (size,), generator=generator, device=generator.device)
        for count in (len(samples.x0), len(samples.prompts))
    )
    kinds = 2 if state.config.share_noise else 3
    x_T, *noise = torch.randn((kinds, size, *samples.x0.shape[1:]), generator=generator, device=generator.device)
    mine = rows_of_process(state)
    real, fake, x_T = real[mine], fake[mine], x_T[mine]
    if state.config.pairing == "same_noise":
        fake, x_T = real, samples.x_T[real]
    seeds = torch.randint(2**62, (size,), generator=generator, device=generator.device)[mine] if multi_step else None
    real_noise, fake_noise = noise[0][mine], noise[-1][mine]
    return Batch(samples.x0[real], samples.embeds[real], x_T, samples.embeds[fake], real_noise, fake_noise, seeds)


def rows_of_process(state: TrainState) -> slice:
    """This process's rows of a batch of `batch_size`."""
    share = state.config.batch_size // state.accelerator.num_processes
    return slice(state.accelerator.process_index * share, (state.accelerator.process_index + 1) * share)


def extract_features(
    state: TrainState, x0: Tensor, embeds: PromptEmbeds, noise: Tensor, t_star: Tensor | int, crop_seed: int
) -> list[ViewFeatures]:
    """Noise x0 (B, C, H, W) to t*, and extract float32 features of every view.

    Args:
        noise: (B, C, H, W), of unit variance.
        t_star: timesteps (B,), or one for all.
        crop_seed: random seed of the crops; real and fake samples get the same.
    """
    timesteps = torch.as_tensor(t_star, device=x0.device).expand(len(x0))
    x_t = x0
    if state.backbone.noisy:
        alpha = state.scheduler.alphas_cumprod.to(x0)[timesteps].view(-1, 1, 1, 1)
        x_t = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
    generator = torch.Generator(x0.device).manual_seed(crop_seed)
    empty = state.samples.empty_embeds[torch.zeros(len(x0), dtype=torch.long, device=x0.device)]
    return view_features(
        x_t, timesteps, embeds, empty, state.views, state.backbone, state.feature_indices, state.all_levels, generator
    )
