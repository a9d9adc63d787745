"""Replaced parts in a training step: published discriminators against plain loops, and with gradients by hand."""

import math
from contextlib import closing
from itertools import islice

import pytest
import torch
from diffusers import SD3Transformer2DModel
from tiny_training import TINY, differing, saved_state, score_new_batch, tiny
from torch import nn
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.backbones import Backbone, FrozenUNetEncoder, FrozenVision
from nitro_lab.discriminators.losses import (
    GAN_LOSSES,
    GANBatch,
    GANLoss,
    approximate_r1,
    gradient_penalty,
    hinge_d_loss,
    relativistic_g_loss,
)
from nitro_lab.discriminators.optimizers import clipped, rmsprop
from nitro_lab.discriminators.views import GlobalView, LocalView
from nitro_lab.discriminators.zoo import ProjectionHead
from nitro_lab.randomness import randint_below, seeded
from nitro_lab.sampling import predict_x0, sample_trajectory
from nitro_lab.training.batch import extract_features, sample_batch
from nitro_lab.training.parts import Parts
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import discriminator_loss, training_step

GLOBAL = {"views": ("global_conditional",)}
SILENT_G = GANLoss(hinge_d_loss, lambda real, fake: 0 * fake.mean())


def prepare(tmp_path, parts=None, **settings) -> TrainState:
    return prepare_training(tiny(**settings), tmp_path, parts)


def first_panel(state: TrainState):
    """The heads that the first step trains; the generator is then where that step draws its batch."""
    return state.pool.sample(randint_below(len(state.config.t_star), state.generator), TINY.sampled_heads_per_cell)


def pointwise(channels: int) -> nn.Module:
    """A head for maps of any size."""
    return nn.Conv2d(channels, 1, 1)


def test_regularizer_is_trained_as_if_it_were_part_of_the_loss_but_not_reported_with_it(tmp_path):
    def penalty(batch: GANBatch) -> torch.Tensor:  # a sum over heads
        return sum(x.square().mean(1).sum() for x in batch.real_logits)

    penalized = GANLoss(lambda r, f: hinge_d_loss(r, f) + r.square().mean(), SILENT_G.generator)
    kept, reports = [], []
    for parts in (Parts(regularizer=penalty, gan_loss=SILENT_G), Parts(gan_loss=penalized), Parts(gan_loss=SILENT_G)):
        state = prepare(tmp_path, parts, refresh_rate=0.0, **GLOBAL)
        reports.append(training_step(state, 0))
        kept.append(state.pool.level_state(3)[1])  # the first moment is proportional to the gradient
    torch.testing.assert_close(kept[0], kept[1])
    assert not torch.allclose(kept[0], kept[2], rtol=0.01)
    assert reports[0].disc_loss == reports[2].disc_loss < reports[1].disc_loss


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_extract_gives_a_regularizer_the_reals_own_features(tmp_path, precision):
    """With the same noise, t*, crops and precision: no difference to the reals but σ·ε."""
    state = prepare(tmp_path, mixed_precision=precision, views=("global_conditional", "local_unconditional"))
    batch, _ = score_new_batch(state, first_panel(state))
    with torch.no_grad():
        again = batch.extract(batch.real_x0, batch.real_embeds)
    for ours, theirs in zip(again, batch.real, strict=True):
        assert all(map(torch.equal, ours.maps, theirs.maps))
    assert all(map(torch.equal, batch.score(again), batch.real_logits))
    assert approximate_r1(batch, sigma=0.0) == 0 < approximate_r1(batch, sigma=0.01)


def test_student_loss_sees_the_teachers_sample_and_reaches_the_student_only(tmp_path):
    """Of the same x_T and prompts: the teacher is sampled anew, and the student's gradient is computed by hand."""
    seen = []

    def distillation(batch: GANBatch) -> torch.Tensor:
        seen.append(batch)
        matching = sum(
            (f.mean(0) - r.mean(0)).square().mean()
            for real, fake in zip(batch.real, batch.fake, strict=True)
            for r, f in zip(real.maps, fake.maps, strict=True)
        )
        return (batch.fake_x0 - batch.real_x0).square().mean() + matching + batch.fake_logits[0].mean()

    settings = GLOBAL | {"pairing": "same_noise", "teacher_num_inference_steps": 2, "t_star": (250,)}
    settings |= {"refresh_rate": 0.0, "max_grad_norm": math.inf}
    plain, state = (
        prepare(tmp_path, Parts(gan_loss=SILENT_G, student_loss=term), **settings) for term in (None, distillation)
    )
    training_step(plain, 0)
    training_step(state, 0)
    assert differing(plain.pool.state_dict(), state.pool.state_dict()) == set()
    (seen,) = seen

    fresh = prepare(tmp_path, **settings)
    panel, batch = first_panel(fresh), sample_batch(fresh)
    crop_seed = randint_below(2**62, fresh.generator)
    with torch.no_grad():
        steps = sample_trajectory(fresh.pipe.unet, fresh.pipe.scheduler, batch.x_T, batch.fake_embeds, 2)
        teacher = list(steps)[-1].latents
    torch.testing.assert_close(seen.real_x0, teacher, rtol=1e-4, atol=1e-4)
    assert torch.equal(seen.real_embeds.prompt_embeds, seen.fake_embeds.prompt_embeds)

    x0 = predict_x0(fresh.student, fresh.scheduler, batch.x_T, batch.fake_embeds)
    torch.testing.assert_close(seen.fake_x0, x0)
    alpha = fresh.scheduler.alphas_cumprod[250]
    real, fake = (
        fresh.backbone(alpha.sqrt() * x + (1 - alpha).sqrt() * batch.real_noise, 250, batch.real_embeds)
        for x in (batch.real_x0, x0)
    )
    loss = (x0 - teacher).square().mean()
    loss = loss + sum((f.mean(0) - r.mean(0)).square().mean() for r, f in zip(real, fake, strict=True))
    features = extract_features(fresh, x0, batch.fake_embeds, batch.fake_noise, 250, crop_seed)
    loss = loss + panel.score(features)[0].mean()
    loss.backward(inputs=list(fresh.student.parameters()))
    ours, theirs = (torch.cat([p.grad.flatten() for p in s.student.parameters()]) for s in (state, fresh))
    assert theirs.any()
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_relativistic_generator_loss_reaches_the_student_only(tmp_path):
    silent = GANLoss(lambda real, fake: 0 * (real.mean() + fake.mean()), relativistic_g_loss)
    state = prepare(tmp_path, Parts(gan_loss=silent), refresh_rate=0.0, **GLOBAL)
    before = {name: value.clone() for name, value in state.pool.state_dict().items() if name.startswith("params")}
    report = training_step(state, 0)
    assert report.disc_grad_norm == 0 < report.grad_norm
    assert report.student_loss == pytest.approx(math.log(2), abs=0.3)
    assert all(torch.equal(state.pool.state_dict()[name], value) for name, value in before.items())


def test_negatives_are_the_same_images_with_other_captions_and_count_half(tmp_path):
    views = {"with caption": GlobalView(), "crops": LocalView(), "without": GlobalView(conditional=False)}
    shuffled = torch.tensor([3, 2, 1, 0])
    parts = Parts(ProjectionHead, views, negatives=lambda x0, embeds: (x0, embeds[shuffled]))
    state = prepare(tmp_path, parts, gan_loss="non_saturating")
    panel = first_panel(state)
    batch, negative = score_new_batch(state, panel)
    with torch.no_grad():
        expected = panel.score(batch.extract(batch.real_x0, batch.real_embeds[shuffled]))
    torch.testing.assert_close(negative, expected)
    levels = len(state.feature_indices)
    for cell, (real, other) in enumerate(zip(batch.real_logits, negative, strict=True)):
        assert torch.equal(real, other) == (cell // levels == 2)  # the empty prompt is the same for all
    loss, penalty = discriminator_loss(state, batch, negative)
    softplus = nn.functional.softplus
    cells = zip(batch.real_logits, batch.fake_logits, negative, strict=True)
    by_head = [softplus(-r).mean(1) + (softplus(f).mean(1) + softplus(n).mean(1)) / 2 for r, f, n in cells]
    torch.testing.assert_close(loss, torch.cat(by_head).sum())
    assert penalty == 0
    assert training_step(state, 0).disc_grad_norm > 0


def test_each_image_is_noised_to_its_own_timestep_by_a_law(tmp_path):
    calls = []

    def law(t_star, num_images, stats, generator):
        calls.append((t_star, num_images, {name: values.shape for name, values in stats.items()}))
        return torch.randint(t_star + 1, (num_images,), generator=generator)

    settings = {"views": ("global_conditional", "local_conditional"), "t_star": (700, 900)}
    state, twin, plain = (prepare(tmp_path, Parts(sample_t_star=part), **settings) for part in (law, law, None))
    batches = [score_new_batch(s, first_panel(s))[0] for s in (state, twin)]
    noise_level = randint_below(2, plain.generator)
    shape = dict.fromkeys(("age", "updates", "created", "logit_gap"), state.pool.shape[1:])
    assert calls == [(settings["t_star"][noise_level], TINY.batch_size, shape)] * 2
    assert all(map(torch.equal, *([m for view in batch.fake for m in view.maps] for batch in batches)))

    plain.pool.sample(noise_level, 1)
    batch = sample_batch(plain)
    timesteps = law(settings["t_star"][noise_level], TINY.batch_size, {}, plain.generator)
    assert len(timesteps.unique()) > 1
    assert batches[0].real[0].t_star.tolist() == timesteps.tolist()
    assert batches[0].real[1].t_star.tolist() == timesteps.repeat(2).tolist()  # two crops of each
    crop_seed = randint_below(2**62, plain.generator)
    for image, t in enumerate(timesteps.tolist()):
        rows = slice(image, image + 1)
        with torch.no_grad():
            alone = extract_features(
                plain, batch.real_x0[rows], batch.real_embeds[rows], batch.real_noise[rows], t, crop_seed
            )
        for crop in range(2):
            for view, row in ((0, image), (1, crop * TINY.batch_size + image)):
                ours = [x[row] for x in batches[0].real[view].maps]
                theirs = [x[crop if view else 0] for x in alone[view].maps]
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)  # other batch sizes round otherwise


def test_the_law_and_the_batch_do_not_depend_on_how_many_processes_share_them(tmp_path, monkeypatch):
    def law(t_star, num_images, stats, generator):
        return torch.randint(1000, (num_images,), generator=generator)

    state = prepare(tmp_path, Parts(sample_t_star=law), **GLOBAL)
    panel, start, seen = state.pool.all_heads(0), state.generator.get_state(), []
    for processes, index in ((1, 0), (2, 0), (2, 1)):
        monkeypatch.setattr(type(state.accelerator), "num_processes", processes)
        monkeypatch.setattr(type(state.accelerator), "process_index", index)
        state.generator.set_state(start)
        batch, _ = score_new_batch(state, panel)
        seen.append((batch.real[0].t_star, batch.real_x0))
    for whole, *parts in zip(*seen, strict=True):
        assert torch.equal(whole, torch.cat(parts))


class ShuffledHead(nn.Module):
    """Sees all levels through frozen random projections, knows t*, and gives two logits an image."""

    all_levels = True

    def __init__(self, channels: list[int]):
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(c, 8, 1).requires_grad_(False) for c in channels)
        self.register_buffer("order", torch.randperm(8))
        self.score = nn.Linear(9, 2)

    def forward(self, features: list[torch.Tensor], t_star: torch.Tensor) -> torch.Tensor:
        mixed = sum(p(x).relu().mean((2, 3)) for p, x in zip(self.projections, features, strict=True))
        return self.score(torch.cat([mixed[:, self.order], t_star[:, None] / 1000], 1))


def test_a_run_with_many_parts_resumes_bit_for_bit(tmp_path):
    def law(t_star, num_images, stats, generator):  # adaptive noise: the heads' statistics count
        highest = t_star + 1 + int(stats["updates"].sum()) + int(10 * stats["logit_gap"].abs().sum())
        return torch.randint(min(highest, 1000), (num_images,), generator=generator)

    parts = Parts(
        ShuffledHead,
        gan_loss=GAN_LOSSES["relativistic"],
        regularizer=lambda batch: gradient_penalty(batch, fake=True) + approximate_r1(batch),
        student_loss=lambda batch: (batch.fake_x0 - batch.real_x0).square().mean(),
        negatives=lambda x0, embeds: (x0, embeds[torch.arange(len(x0)).roll(1)]),
        sample_t_star=law,
        head_optimizer=clipped(rmsprop, 1.0),
    )

    def train(folder, steps=None):
        config = tiny(max_train_steps=2, refresh_rate=0.3, pairing="same_noise", feature_indices=(9, 0))
        run = TrainingRun(config, folder, parts)
        with closing(run.steps()) as reports:
            return run, list(islice(reports, steps))

    run, reports = train(tmp_path / "whole")
    train(tmp_path / "cut", steps=1)
    train(tmp_path / "cut")
    assert differing(saved_state(tmp_path / "whole"), saved_state(tmp_path / "cut")) == set()
    assert reports[0].logit_gaps.shape == (3, 1, 1)  # one head for all levels
    pool = run.state.pool
    assert saved_state(tmp_path / "cut")["pool/constants0"].shape == (4, 3, 2, 96 * 8 + 8 + 64 * 8 + 8 + 8)
    assert len(pool.constants(0).flatten(0, 2).unique(dim=0)) == 24
    assert not pool.level_state(0)[1].any()  # RMSProp has one moment
    assert pool.level_state(0)[2].any()


def test_levels_are_numbered_as_in_the_settings(tmp_path):
    class LevelHead(nn.Module):
        def __init__(self, channels: int):
            super().__init__()
            self.linear = nn.Linear(channels, 1)

        def forward(self, feature: torch.Tensor, view: int, level: int, t_star: torch.Tensor) -> torch.Tensor:
            zero = 0 * self.linear(feature.mean((2, 3)))
            return torch.cat([zero + 100 * view + level, zero + t_star[:, None]], 1)

    views = {"all": GlobalView(), "crops": LocalView()}
    state = prepare(tmp_path, Parts(LevelHead, views), feature_indices=(7, 2), t_star=(250,))
    batch, _ = score_new_batch(state, first_panel(state))
    for logits, expected in zip(batch.real_logits, (7, 2, 107, 102), strict=True):
        assert logits[0].view(-1, 2).unique(dim=0).tolist() == [[expected, 250]]


class MixedLevels(Backbone):
    """Features of a backbone, each with random projections of the coarser ones: CCM of Projected GAN."""

    def __init__(self, inner: Backbone, width: int = 8):
        super().__init__()
        self.inner, self.channels = inner, [width] * len(inner.channels)
        self.projections = nn.ModuleList(nn.Conv2d(c, width, 1) for c in inner.channels)

    def forward(self, latents, timesteps, embeds):
        mixed = []
        for project, x in reversed(list(zip(self.projections, self.inner(latents, timesteps, embeds), strict=True))):
            coarser = nn.functional.interpolate(mixed[-1], x.shape[2:]) if mixed else 0
            mixed.append(project(x) + coarser)
        return mixed[::-1]


class FrozenMMDiT(Backbone):
    """Image and text tokens after each joint block, (B, C, h, w) and (B, C, length, 1), as in NitroFusion 2."""

    def __init__(self, transformer: SD3Transformer2DModel):
        super().__init__()
        self.transformer, blocks = transformer, len(transformer.transformer_blocks)
        self.channels = [transformer.inner_dim] * (2 * blocks - 1)  # the last block has no text tokens any more
        self._tokens = []
        for block in transformer.transformer_blocks:
            block.register_forward_hook(lambda module, inputs, output: self._tokens.append(output))

    def forward(self, latents, timesteps, embeds):
        self._tokens.clear()
        self.transformer(latents, embeds.prompt_embeds, embeds.pooled_prompt_embeds, timesteps)
        rows = latents.shape[2] // self.transformer.config.patch_size
        images = [image.mT.unflatten(2, (rows, -1)) for _, image in self._tokens]
        return images + [text.mT.unsqueeze(3) for text, _ in self._tokens if text is not None]


def make_mmdit() -> SD3Transformer2DModel:
    """Three joint blocks of width 16 for the miniature's latents and prompts."""
    return SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=128,
        caption_projection_dim=16,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
    )


def make_vision(teacher) -> FrozenVision:
    layers = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 2, 2)
    return FrozenVision(teacher.vae, seeded(0, lambda: nn.Sequential(*layers)), ["1", "3"])


BACKBONES = {
    "whole UNet": (13, lambda teacher: FrozenUNetEncoder(teacher.unet, decoder=True)),
    "untrained UNet": (
        10,
        lambda teacher: FrozenUNetEncoder(seeded(3, lambda: type(teacher.unet)(**teacher.unet.config))),
    ),
    "vision network": (2, make_vision),
    "mixed levels": (10, lambda teacher: seeded(4, lambda: MixedLevels(FrozenUNetEncoder(teacher.unet)))),
    "MMDiT": (5, lambda teacher: FrozenMMDiT(seeded(5, make_mmdit))),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_train_heads_and_student_and_stay_as_they_are(tmp_path, name):
    levels, backbone = BACKBONES[name]
    state = prepare(tmp_path, Parts(pointwise, backbone=backbone), refresh_rate=0.0)
    weights = {name: value.clone() for name, value in state.backbone.named_buffers()}
    heads = [state.pool.level_state(level)[0].clone() for level in range(levels)]
    assert state.pool.shape[2] == levels
    report = training_step(state, 0)
    state.backbone.train()
    assert report.logit_gaps.shape == (3, levels, 1)
    assert report.grad_norm > 0
    for level, before in enumerate(heads):
        changed = (state.pool.level_state(level)[0] != before).any(-1)
        assert changed.sum() == 3  # one head of each view
    assert list(state.backbone.parameters()) == []
    assert len(weights) > 5
    assert differing(weights, dict(state.backbone.named_buffers())) == set()
    assert not any(module.training for module in state.backbone.modules())
    assert all(p.requires_grad for p in state.student.parameters())


def test_clean_features_do_not_depend_on_noise_but_crops_are_those_of_latents(tmp_path):
    views = {"global": GlobalView(), "crops": LocalView(size=4)}
    state = prepare(tmp_path, Parts(pointwise, views, backbone=make_vision))
    batch = sample_batch(state)
    with torch.no_grad():
        first, second = (
            extract_features(state, batch.real_x0, batch.real_embeds, noise, t, crop_seed=1)
            for noise, t in ((batch.real_noise, 10), (batch.x_T, 750))
        )
        generator = torch.Generator().manual_seed(1)
        crops, _ = LocalView(size=4)(batch.real_x0, batch.real_embeds, batch.real_embeds, generator)
        expected = state.backbone(crops, 0, batch.real_embeds)
    assert all(map(torch.equal, first[0].maps, second[0].maps))
    assert all(map(torch.equal, first[1].maps, expected))


def test_text_tokens_of_a_dit_are_levels_that_follow_the_prompt_and_the_latents(tmp_path):
    """The text stream attends to the image, so discriminators on it train the student as well."""
    state = prepare(tmp_path, Parts(pointwise, backbone=BACKBONES["MMDiT"][1]), **GLOBAL)
    rows, timesteps = torch.arange(2), torch.tensor([10, 500])
    latents, embeds = state.samples.x0[rows].clone().requires_grad_(), state.samples.embeds[rows]
    features, dit, expected = state.backbone(latents, timesteps, embeds), state.backbone.transformer, []
    image, text = dit.pos_embed(latents), dit.context_embedder(embeds.prompt_embeds)
    condition = dit.time_text_embed(timesteps, embeds.pooled_prompt_embeds)
    for block in dit.transformer_blocks:
        text, image = block(image, text, condition)
        expected.append((image, text))
    images, texts = features[:3], features[3:]
    assert [tuple(x.shape) for x in features] == [(2, 16, 8, 8)] * 3 + [(2, 16, embeds.prompt_embeds.shape[1], 1)] * 2
    torch.testing.assert_close([x.flatten(2).mT for x in images], [image for image, _ in expected])
    torch.testing.assert_close([x.flatten(2).mT for x in texts], [text for _, text in expected[:2]])

    others = state.backbone(latents, timesteps, embeds[rows.flip(0)])
    for ours, theirs in zip(features, others, strict=True):
        assert (ours - theirs).abs().amax((1, 2, 3)).min() > 1e-4
        (gradient,) = torch.autograd.grad(ours.square().sum(), latents, retain_graph=True)
        assert gradient.abs().amax((1, 2, 3)).min() > 0


def test_a_backbone_must_not_freeze_the_teachers_own_modules(tmp_path):
    class Decoded(Backbone):
        channels = (3,)

        def __init__(self, teacher):
            super().__init__()
            self.vae = teacher.vae

    with pytest.raises(ValueError, match=r"backbone Decoded.*deepcopy"):
        prepare(tmp_path, Parts(backbone=Decoded))
