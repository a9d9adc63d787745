"""The analysis of the timestep shift against the scheduler and closed forms, and its widget."""

from itertools import cycle

import pytest
import torch

from nitro_lab.evaluation.eval_set import make_eval_set
from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.randomness import seeded
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook import shift as analysis
from workbook.shift import ScheduleStep, read_schedule

ALPHAS = TimestepShiftLCMScheduler().alphas_cumprod


@pytest.mark.parametrize("shift", [250, 500])
def test_golden_rows_are_what_the_scheduler_computes(shift, monkeypatch):
    sample, eps, noise = (torch.tensor(row).double() for row in (analysis.X_T, analysis.EPS, analysis.NOISE))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: noise)
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(4)
    rows = analysis.golden_rows(shift)
    steps = [
        ScheduleStep(row["t"], row["t'"], following) for row, following in zip(rows, [749, 499, 249, None], strict=True)
    ]
    assert steps == read_schedule(scheduler, 4)
    for row, timestep in zip(rows, scheduler.timesteps, strict=True):
        out = scheduler.step(eps, timestep, sample)
        assert row["x0"] == pytest.approx(out.denoised.tolist(), abs=1e-4)
        assert row["next x"] == pytest.approx(out.prev_sample.tolist(), abs=1e-4)
        for name in ("t", "t'"):
            alpha = scheduler.alphas_cumprod[row[name]].item()
            assert row[f"ᾱ({name})"] == pytest.approx(alpha, abs=1e-6)
            assert row[f"σ({name})"] == pytest.approx((1 / alpha - 1) ** 0.5, rel=1e-5)
        sample = out.prev_sample


@pytest.mark.parametrize("t", [999, 499, 62])
def test_an_error_in_eps_is_multiplied_by_sigma(t):
    clean = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for std in (0.0, 0.1):
        x0 = analysis.x0_with_error(ALPHAS, clean, t, std, torch.Generator().manual_seed(1))
        assert analysis.rmse(x0, clean) == pytest.approx(std * analysis.sigmas(ALPHAS)[t].item(), rel=0.02, abs=1e-5)


@pytest.mark.parametrize("t", [999, 499, 62])
def test_target_std_is_that_of_simulated_targets(t):
    alphas = ALPHAS.double()
    x0, noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latent = alphas[-1].sqrt() * x0 + (1 - alphas[-1]).sqrt() * noise
    target = (latent - alphas[t].sqrt() * x0) / (1 - alphas[t]).sqrt()
    assert analysis.target_std(alphas)[t].item() == pytest.approx(target.std().item(), rel=0.01)


def test_one_step_at_the_shifted_timestep_is_the_pipeline_s_step(untrained_pipeline):
    before = untrained_pipeline.scheduler
    pipe = analysis.with_shift(untrained_pipeline, 500)
    assert pipe.unet is untrained_pipeline.unet
    assert untrained_pipeline.scheduler is before
    x_T = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "latent"}
    expected = pipe("a red star", latents=x_T, **options).images
    torch.testing.assert_close(analysis.one_step_x0(pipe, ["a red star"], x_T, 499), expected, rtol=1e-3, atol=1e-3)


def test_a_sweep_samples_each_shift_from_the_same_noise(untrained_pipeline, monkeypatch):
    eval_set = make_eval_set(untrained_pipeline, seeded(0, SceneClassifier).eval(), num_images=8)
    distances = cycle([1.0, 3.0])  # of the two groups
    monkeypatch.setattr(analysis, "frechet_distance", lambda x, y: next(distances))
    first, second, again = analysis.sweep_shift(untrained_pipeline, eval_set, (250, 500, 250), groups=2)
    assert (first.shift, second.shift) == (250, 500)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, second.images)
    assert first.images.shape == (8, 3, 64, 64)
    assert first.fd == (2.0, 1.0)  # mean, standard error
