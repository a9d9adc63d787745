"""The training step: which network gets which gradient, what a report holds, what each setting does."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_training import TINY, tiny
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss, hinge_d_loss, linear_g_loss
from nitro_lab.discriminators.selection import refresh_oldest, sample_least_updated
from nitro_lab.discriminators.views import GlobalView, LocalView
from nitro_lab.training.batch import extract_features, sample_batch
from nitro_lab.training.parts import Parts
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import _update_student, training_step


def prepare(tmp_path, parts=None, **settings) -> TrainState:
    return prepare_training(tiny(**settings), tmp_path, parts)


def copy_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def test_each_loss_reaches_its_own_network_only(tmp_path):
    silent = Parts(gan_loss=GANLoss(hinge_d_loss, lambda real, fake: 0 * fake.mean()))
    state = prepare(tmp_path / "heads", silent, max_grad_norm=math.inf)
    report = training_step(state, 0)
    gradients = [p.grad for p in state.student.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert not any(gradient.any() for gradient in gradients)
    assert report.grad_norm == 0 < report.disc_grad_norm
    silent = Parts(gan_loss=GANLoss(lambda real, fake: 0 * (real.mean() + fake.mean()), linear_g_loss))
    state = prepare(tmp_path / "student", silent, refresh_rate=0.0)
    before = copy_of(state.pool)
    report = training_step(state, 0)
    assert report.disc_grad_norm == 0 < report.grad_norm
    assert not {name for name in changed(before, state.pool) if name.startswith("params")}


def test_step_is_that_of_a_plain_loop_over_the_sampled_heads(tmp_path):
    """The first step again by hand, without the step's own code for sampling, losses and their means."""
    state = prepare(tmp_path, refresh_rate=0.0)
    report, fresh = training_step(state, 0), prepare(tmp_path / "again", refresh_rate=0.0)
    noise_level = int(torch.randint(len(TINY.t_star), (), generator=fresh.generator))
    panel = fresh.pool.sample(noise_level, TINY.sampled_heads_per_cell)
    batch = sample_batch(fresh)
    crop_seed, t_star = int(torch.randint(2**62, (), generator=fresh.generator)), TINY.t_star[noise_level]
    with torch.no_grad():
        alpha = fresh.scheduler.alphas_cumprod[249]
        added = {"text_embeds": batch.fake_embeds.pooled_prompt_embeds, "time_ids": batch.fake_embeds.add_time_ids}
        eps = fresh.student(batch.x_T, 249, batch.fake_embeds.prompt_embeds, added_cond_kwargs=added).sample
        x0 = (batch.x_T - (1 - alpha).sqrt() * eps) / alpha.sqrt()
        real = extract_features(fresh, batch.real_x0, batch.real_embeds, batch.real_noise, t_star, crop_seed)
        fake = extract_features(fresh, x0, batch.fake_embeds, batch.fake_noise, t_star, crop_seed)
        pairs = list(zip(panel.score(real), panel.score(fake), strict=True))
    disc = [torch.relu(1 - r).mean(1) + torch.relu(1 + f).mean(1) for r, f in pairs]
    gaps = torch.stack([r.mean(1) - f.mean(1) for r, f in pairs])
    assert torch.equal(report.indices, panel.indices)
    torch.testing.assert_close(report.logit_gaps.flatten(0, 1), gaps, rtol=1e-3, atol=1e-5)
    assert report.disc_loss == pytest.approx(torch.cat(disc).mean().item(), rel=1e-4)
    gen = torch.stack([-f.mean() for _, f in pairs]).mean().item()
    assert report.student_loss == pytest.approx(gen, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", GAN_LOSSES)
def test_reports_of_every_loss(tmp_path, name):
    state = prepare(tmp_path, gan_loss=name)
    reports = [training_step(state, step) for step in range(2)]
    assert [report.step for report in reports] == [1, 2]
    assert reports[0].disc_loss == pytest.approx(GAN_LOSSES[name].uninformed_loss, abs=0.5)  # of new heads
    for report in reports:
        assert report.logit_gaps.shape == report.indices.shape == (3, 10, TINY.sampled_heads_per_cell)
        assert report.refreshed.shape in ((2, 4), (3, 4))  # one in a hundred of 240
        assert all(0 < x < math.inf for x in (report.grad_norm, report.disc_grad_norm, report.seconds))


def test_warm_up_and_frequencies_of_updates(tmp_path):
    settings = {"disc_warmup_steps": 2, "disc_update_freq": 3, "student_update_freq": 2, "learning_rate": 1e-4}
    settings |= {"gradient_accumulation_steps": 2, "batch_size": 2}  # whose parts are one update
    state = prepare(tmp_path, heads_per_cell=1, refresh_rate=0, **settings)
    heads, students, rates = [], [], []
    for step in range(6):
        pool, student = copy_of(state.pool), copy_of(state.student)
        report = training_step(state, step)
        heads.append("params0" in changed(pool, state.pool))
        students.append(bool(changed(student, state.student)))
        rates.append(state.optimizer.param_groups[0]["lr"])
        assert (report.grad_norm > 0) == students[-1] == (not math.isnan(report.student_loss))
    assert heads == [True, True, True, False, False, True]
    assert students == [False, False, True, False, True, False]
    assert {int(value["step"]) for value in state.optimizer.state.values()} == {2}
    assert state.pool.updates.sum() == 4 * 3 * 10
    assert rates == pytest.approx([1e-4, 1e-4, 0.5e-4, 0.5e-4, 1e-4, 1e-4])  # rises as long as the warm-up of the heads


def test_views_crops_levels_and_heads_are_settings(tmp_path):
    settings = {"views": ("local_unconditional",), "crop_size": 16, "crops_per_image": 3, "vectorize_heads": False}
    settings |= {"head_depth": 2, "feature_indices": (9, 0)}
    state, shapes = prepare(tmp_path, **settings), []
    state.backbone.unet.conv_in.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    assert training_step(state, 0).logit_gaps.shape == (1, 2, 1)
    assert {(shape[0], *shape[2:]) for shape in shapes} == {(3 * TINY.batch_size, 16, 16)}
    assert state.pool.head_sizes[0] > state.pool.head_sizes[1]  # 96 channels, then 64
    with pytest.raises(ValueError, match="depth"):
        training_step(prepare(tmp_path / "small", **settings | {"crop_size": 4}), 0)


def test_replaced_parts_are_used(tmp_path):
    views = {"whole": GlobalView(), "tiles": LocalView(size=4, crops=1), "others": LocalView(size=8)}
    head = partial(torch.nn.Conv2d, out_channels=1, kernel_size=1)
    silent = GANLoss(hinge_d_loss, lambda real, fake: 0 * fake.mean())
    state = prepare(tmp_path, Parts(head, views, silent, sample_least_updated, refresh_oldest), refresh_rate=0.5)
    assert [training_step(state, step).grad_norm for step in range(3)] == [0, 0, 0]
    assert state.pool.head_sizes[0] == 65
    assert state.pool.stats()["created"].min() >= 2  # three halves: none of the first heads is left


@pytest.mark.parametrize("share", [True, False])
def test_real_and_fake_noise_is_shared_or_not(tmp_path, share):
    batch = sample_batch(prepare(tmp_path, share_noise=share))
    assert torch.equal(batch.real_noise, batch.fake_noise) == share
    assert not any(torch.equal(batch.x_T, noise) for noise in (batch.real_noise, batch.fake_noise))


def test_both_sides_have_their_own_betas(tmp_path):
    """With β₁ = 0, AdamW's moments after one step are g and (1 − β₂)·g²."""
    state = prepare(tmp_path, adam_betas=(0.0, 0.9), disc_adam_betas=(0.0, 0.8), refresh_rate=0.0)
    training_step(state, 0)
    for moments in state.optimizer.state.values():
        torch.testing.assert_close(moments["exp_avg_sq"], 0.1 * moments["exp_avg"] ** 2)
    _, first, second = state.pool.level_state(0)
    torch.testing.assert_close(second, 0.2 * first**2)
    assert first.any()


def test_settings_that_do_not_fit_the_models_are_refused(tmp_path):
    settings = {"init_from.*mini-teacher": {"init_from": "mini-teacher"}, "5": {"stages": (5,)}}
    settings |= {"fp16.*CUDA": {"mixed_precision": "fp16"}, "shard.*process": {"shard": True}}
    for named, setting in (settings | {"feature_indices.*10.*0 to 9": {"feature_indices": (10,)}}).items():
        with pytest.raises(ValueError, match=named):
            prepare(tmp_path, **setting)


@pytest.mark.parametrize("where", ["samples", "gradient"])
def test_nan_changes_no_weight(tmp_path, where):
    state = prepare(tmp_path)
    training_step(state, 0)
    if where == "samples":
        state.samples.x0.fill_(math.nan)
    else:  # L_D stays as it is, but its gradient is 0 · ∞
        poison = GANLoss(lambda real, fake: hinge_d_loss(real, fake) + (0 * real.mean()).sqrt(), linear_g_loss)
        object.__setattr__(state, "gan_loss", poison)
    student, pool = copy_of(state.student), copy_of(state.pool)
    with pytest.raises(FloatingPointError, match=r"Step 2.*nan"):
        training_step(state, 1)
    assert changed(student, state.student) == changed(pool, state.pool) == set()


def test_bfloat16_gradients_point_the_same_way_and_weights_stay_float32(tmp_path):
    """The student's gradient has passed through two UNets, so it is much noisier than that of the heads."""
    settings = {"views": ("global_conditional",), "head_width": 32, "t_star": (10,), "refresh_rate": 0.0}
    sides = []
    for precision in ("no", "bf16"):
        state = prepare(tmp_path, mixed_precision=precision, max_grad_norm=math.inf, **settings)
        training_step(state, 0)
        student = torch.cat([p.grad.flatten() for p in state.student.parameters()])
        first_moments = torch.cat([state.pool.level_state(level)[1].flatten() for level in range(10)])
        sides.append((student, first_moments))
        assert {p.dtype for p in state.student.parameters()} == {torch.float32}
    (student, heads), (coarse_student, coarse_heads) = sides
    assert torch.cosine_similarity(heads, coarse_heads, 0) > 0.99
    assert torch.cosine_similarity(student, coarse_student, 0) > 0.7
    assert not torch.equal(student, coarse_student)


def test_an_overflow_skips_the_update_and_halves_the_loss_scale_which_rises_again(tmp_path):
    state = prepare(tmp_path, student_update_freq=2)
    training_step(state, 0)
    state = replace(state, config=replace(state.config, mixed_precision="fp16"))  # as on a GPU
    before = copy_of(state.student), [average.clone() for average in state.ema.parameters()]
    state.loss_scale.fill_(8.0)
    _update_student(state, 2, is_finite=False)
    assert state.loss_scale == 4
    assert changed(before[0], state.student) == set()
    assert all(map(torch.equal, before[1], state.ema.parameters()))
    state.optimizer.zero_grad()
    for update in (998, 999, 1000, 1999):
        _update_student(state, 2 * update, is_finite=True)
    assert state.loss_scale == 4 * 2 * 2


def test_compiled_step_gives_the_same_losses(tmp_path, monkeypatch):
    """Traced as for any device, without the code generators, which take minutes on a CPU."""
    settings = {"views": ("global_conditional",)}
    plain = training_step(prepare(tmp_path, **settings), 0)
    compiled, compile_module = [], torch.nn.Module.compile

    def trace(module, *arguments, **options):
        compiled.append(module)
        compile_module(module, *arguments, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    torch._dynamo.reset()
    report = training_step(prepare(tmp_path, compile=True, **settings), 0)
    assert len(compiled) == 2  # student and backbone
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert report.disc_loss == pytest.approx(plain.disc_loss, rel=1e-4)
    assert report.grad_norm == pytest.approx(plain.grad_norm, rel=1e-3)
