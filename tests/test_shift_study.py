"""Measurements of the scheduler notebook, against the scheduler itself and closed forms."""

import pytest
import torch

from nitro_lab.exam import set_exam
from nitro_lab.mini.judge import Judge
from nitro_lab.randomness import seeded
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.studies import shift as study


@pytest.mark.parametrize("shift", [250, 500])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_clocks_are_the_paper_s_table(shift, steps):
    true = {1: [999], 2: [999, 499], 3: [999, 749, 499], 4: [999, 749, 499, 249]}[steps]
    ticks = study.read_clocks(TimestepShiftLCMScheduler(shifted_timestep=shift), steps)
    assert [tick.true for tick in ticks] == true
    assert [tick.told for tick in ticks] == [t * shift // 1000 for t in true]
    assert [tick.then for tick in ticks] == [*true[1:], None]


@pytest.mark.parametrize("shift", [250, 500])
def test_golden_rows_are_what_the_scheduler_computes(shift, monkeypatch):
    sample, epsilon, fresh = (torch.tensor(row).double() for row in (study.SAMPLE, study.EPSILON, study.FRESH))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: fresh)
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(4)
    rows = study.golden_rows(shift)
    assert [int(row["t'"]) for row in rows] == scheduler.timesteps.tolist()
    for row, told in zip(rows, scheduler.timesteps, strict=True):
        out = scheduler.step(epsilon, told, sample)
        for cell, value in (("x0", out.denoised), ("next x", out.prev_sample)):
            assert [float(number) for number in row[cell].split(", ")] == pytest.approx(value.tolist(), abs=1e-4)
        assert float(row["ᾱ(t')"]) == pytest.approx(scheduler.alphas_cumprod[told].item(), abs=1e-6)
        sample = out.prev_sample


def test_a_table_has_a_head_and_a_line_for_each_row():
    assert study.table([{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]).splitlines() == [
        "| a | b |",
        "| ---: | ---: |",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]


@pytest.mark.parametrize("t", [999, 499, 62])
def test_a_known_error_arrives_times_sigma(t):
    alphas = TimestepShiftLCMScheduler().alphas_cumprod
    clean = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    wrong = study.with_known_error(alphas, clean, t, 0.1, torch.Generator().manual_seed(1))
    assert study.rms(wrong, clean) == pytest.approx(0.1 * study.sigmas(alphas)[t].item(), rel=0.02)


def test_without_an_error_the_latent_comes_back():
    alphas = TimestepShiftLCMScheduler().alphas_cumprod
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    same = study.with_known_error(alphas, clean, 249, 0.0, torch.Generator().manual_seed(1))
    torch.testing.assert_close(same, clean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("told", [999, 499, 62])
def test_target_size_is_that_of_simulated_targets(told):
    alphas = TimestepShiftLCMScheduler().alphas_cumprod.double()
    x0, noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    latent = alphas[-1].sqrt() * x0 + (1 - alphas[-1]).sqrt() * noise
    target = (latent - alphas[told].sqrt() * x0) / (1 - alphas[told]).sqrt()
    assert study.target_size(alphas)[told].item() == pytest.approx(target.std().item(), rel=0.01)


def test_one_step_told_the_shifted_time_is_the_pipeline_s_own_step(untrained_pipeline):
    pipe = study.at_shift(untrained_pipeline, 500)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    options = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "latent"}
    expected = pipe("a red star", latents=noise, **options).images
    torch.testing.assert_close(study.one_step(pipe, ["a red star"], noise, 499), expected, rtol=1e-3, atol=1e-3)


def test_another_shift_leaves_the_pipeline_as_it_was(untrained_pipeline):
    before = untrained_pipeline.scheduler
    other = study.at_shift(untrained_pipeline, 125)
    assert other.scheduler.config.shifted_timestep == 125
    assert other.unet is untrained_pipeline.unet
    assert untrained_pipeline.scheduler is before
    assert type(before).__name__ == untrained_pipeline.config["scheduler"][1]


def test_a_sweep_gives_every_shift_its_own_images_from_the_same_noise(untrained_pipeline):
    judge = seeded(0, Judge).eval()
    exam = set_exam(untrained_pipeline, judge, images=8)
    first, second, again = study.sweep_shift(untrained_pipeline, exam, (250, 500, 250), groups=2)
    assert (first.shift, second.shift) == (250, 500)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, second.images)
    assert first.images.shape == (8, 3, 64, 64)


def test_error_bars_are_standard_errors():
    assert study.with_error([1.0, 3.0]) == (2.0, 1.0)
