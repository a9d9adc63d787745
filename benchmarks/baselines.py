"""What the pool is compared with: no heads, a list of modules with one optimizer, and the usual GAN training step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nitro_lab.discriminators.heads import ConvHead
from nitro_lab.discriminators.pool import ViewFeatures
from nitro_lab.randomness import randint_below
from nitro_lab.sampling import predict_x0
from nitro_lab.training.batch import extract_features, sample_batch
from nitro_lab.training.state import TrainState


class MeanPool:
    """Replaces pool and panel at no cost: an image's logit is its features' mean times a parameter."""

    noise_level = 0

    def __init__(self, state: TrainState):
        self.indices = torch.zeros(len(state.views), len(state.feature_indices), 1, dtype=torch.long)
        self.weight = torch.ones((), device=state.accelerator.device, requires_grad=True)
        self.generator = state.generator

    def sample(self, noise_level: int, heads_per_cell: int) -> "MeanPool":
        """Return itself as the panel."""
        return self

    def only(self, views: Sequence[int]) -> "MeanPool":
        """Return itself."""
        return self

    def score(self, views: Sequence[ViewFeatures]) -> list[Tensor]:
        """Return the logits (1, B) of each cell."""
        return [self.weight * feature.mean((1, 2, 3))[None] for view in views for feature in view.maps]

    def parameters(self) -> list[Tensor]:
        """Return the only parameter."""
        return [self.weight]

    def step(self, *arguments: Any) -> None:
        """Do nothing."""

    def refresh(self, rate: float) -> Tensor:
        """Re-initialize nothing."""
        return torch.zeros(0, 4, dtype=torch.long)


class ModuleListPool:
    """The pool as a list of modules that run one after another, with one AdamW for all."""

    def __init__(self, state: TrainState):
        config, self.shape = state.config, state.pool.shape
        noise_levels, views, levels, heads_per_cell = self.shape
        channels = [state.backbone.channels[index] for index in state.feature_indices]
        cells = [channels[level] for _ in range(noise_levels * views) for level in range(levels)]
        heads = [ConvHead(width, config.head_width) for width in cells for _ in range(heads_per_cell)]
        self.heads = nn.ModuleList(heads).to(state.accelerator.device)
        # fused, as in the pool: the comparison is not about kernels that both can use
        self.optimizer = torch.optim.AdamW(
            self.heads.parameters(), config.disc_learning_rate, config.disc_adam_betas, weight_decay=0.0, fused=True
        )

    def sample(self, noise_level: int, heads_per_cell: int) -> list[list[nn.Module]]:
        """Return the sampled heads of each cell of a noise level."""
        _, views, levels, n = self.shape
        starts = range(noise_level * views * levels * n, (noise_level + 1) * views * levels * n, n)
        return [[self.heads[start + i] for i in torch.randperm(n)[:heads_per_cell].tolist()] for start in starts]

    @staticmethod
    def score(panel: list[list[nn.Module]], views: Sequence[ViewFeatures]) -> list[Tensor]:
        """Return the logits of each head."""
        features = [feature for view in views for feature in view.maps]
        return [head(feature) for heads, feature in zip(panel, features, strict=True) for head in heads]

    def update(
        self, state: TrainState, panel: list, real: Sequence[ViewFeatures], fake: Sequence[ViewFeatures]
    ) -> None:
        """Score both sides and take a step; the loss is the sum over heads, as in the pool."""
        pairs = zip(self.score(panel, real), self.score(panel, fake), strict=True)
        self.optimizer.zero_grad()
        torch.stack([state.gan_loss.discriminator(d_real, d_fake) for d_real, d_fake in pairs]).sum().backward()
        self.optimizer.step()


def pool_update(state: TrainState, real: Sequence[ViewFeatures], fake: Sequence[ViewFeatures]) -> None:
    """Sample, score and update heads of the pool."""
    noise_level = randint_below(len(state.config.t_star), state.generator)
    panel = state.pool.sample(noise_level, state.config.sampled_heads_per_cell)
    pairs = zip(panel.score(real), panel.score(fake), strict=True)
    loss = torch.stack([len(d_real) * state.gan_loss.discriminator(d_real, d_fake) for d_real, d_fake in pairs]).sum()
    gradients = torch.autograd.grad(loss, panel.parameters())
    state.pool.step(panel, gradients, torch.zeros(panel.indices.shape), state.config.disc_learning_rate)


def list_update(pool: ModuleListPool, state: TrainState, real: Sequence[ViewFeatures], fake: Any) -> None:
    """Do the same with a list of modules."""
    noise_level = randint_below(len(state.config.t_star), state.generator)
    pool.update(state, pool.sample(noise_level, state.config.sampled_heads_per_cell), real, fake)


def usual_step(pool: ModuleListPool, state: TrainState) -> None:
    """Train the heads with fakes of their own, then the student with others, each through the backbone."""
    config, loss = state.config, state.gan_loss
    noise_level = randint_below(len(config.t_star), state.generator)
    t_star, panel = config.t_star[noise_level], pool.sample(noise_level, config.sampled_heads_per_cell)

    batch = sample_batch(state)
    with torch.no_grad():
        x0 = predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds)
        real = extract_features(state, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, crop_seed=0)
        fake = extract_features(state, x0, batch.fake_embeds, batch.fake_noise, t_star, crop_seed=0)
    pool.update(state, panel, real, fake)

    batch = sample_batch(state)
    x0 = predict_x0(state.student, state.scheduler, batch.x_T, batch.fake_embeds)
    fake = extract_features(state, x0, batch.fake_embeds, batch.fake_noise, t_star, crop_seed=0)
    state.optimizer.zero_grad()
    torch.stack([loss.generator(d_fake, d_fake) for d_fake in pool.score(panel, fake)]).mean().backward()
    torch.nn.utils.clip_grad_norm_(state.student.parameters(), config.max_grad_norm)
    state.optimizer.step()
    state.ema.update_parameters(state.trained)
