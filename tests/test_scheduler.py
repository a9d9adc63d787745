"""The shifted scheduler against the paper's tables, LCM, ComfyUI's sigma form, and the released convention."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, LCMScheduler

from nitro_lab.scheduler import TimestepShiftLCMScheduler

TIMESTEPS = {1: [999], 2: [999, 499], 3: [999, 749, 499], 4: [999, 749, 499, 249]}
SHIFTED = {  # 250 is NitroSD-Realism, 500 NitroSD-Vibrant
    250: {1: [249], 2: [249, 124], 3: [249, 187, 124], 4: [249, 187, 124, 62]},
    500: {1: [499], 2: [499, 249], 3: [499, 374, 249], 4: [499, 374, 249, 124]},
}


SCHEDULES = [  # shift, arguments of set_timesteps -> timesteps, shifted timesteps
    *((shift, {"num_inference_steps": n}, TIMESTEPS[n], rows[n]) for shift, rows in SHIFTED.items() for n in rows),
    (250, {"timesteps": [999, 600, 30]}, [999, 600, 30], [249, 150, 7]),
    (250, {"timesteps": [999, 749, 499, 249], "strength": 0.5}, [499, 249], [124, 62]),
    (1000, {"timesteps": [999, 749, 499, 249], "strength": 0.5}, [499, 249], [499, 249]),
    (500, {"num_inference_steps": 1, "strength": 0.25}, [249], [124]),
    (500, {"num_inference_steps": 2, "strength": 0.5}, [499, 249], [249, 124]),
    (500, {"num_inference_steps": 3, "strength": 0.75}, [749, 499, 249], [374, 249, 124]),
    (np.int64(500), {"num_inference_steps": np.int32(2)}, [999, 499], [499, 249]),
    (torch.tensor(500), {"timesteps": [torch.tensor(999), np.int64(30)]}, [999, 30], [499, 15]),
]


@pytest.mark.parametrize(("shift", "arguments", "unshifted", "shifted"), SCHEDULES)
def test_schedules(shift, arguments, unshifted, shifted, tmp_path):
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.save_pretrained(tmp_path)
    scheduler.set_timesteps(**arguments)
    assert scheduler.unshifted_timesteps.tolist() == unshifted
    assert scheduler.timesteps.tolist() == shifted
    assert scheduler.num_inference_steps == len(shifted)
    x = torch.ones(1, 4, 8, 8)
    steps = [scheduler.step(x, timestep, x) for timestep in scheduler.timesteps]
    renoised = [not torch.equal(step.prev_sample, step.denoised) for step in steps]
    assert renoised == [True] * (len(shifted) - 1) + [False]


OPTIONS = {
    "SDXL": {"beta_schedule": "scaled_linear"},
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "original_inference_steps": 50},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 400, "original_inference_steps": 10},
    "zero SNR, velocity": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "clipped": {"clip_sample": True, "set_alpha_to_one": False, "timestep_scaling": 3.0},
}


@pytest.mark.parametrize(
    "how",
    [{"num_inference_steps": 4}, {"num_inference_steps": 2, "strength": 0.5}, {"timesteps": [350, 300, 20]}],
    ids=["steps", "strength", "custom"],
)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_full_shift_is_lcm_bit_for_bit(options, how):
    lcm = LCMScheduler(**{"original_inference_steps": 4} | options)
    ours = TimestepShiftLCMScheduler(**options, shifted_timestep=lcm.config.num_train_timesteps)
    samples, noised = [], []
    for scheduler in (lcm, ours):
        generator = torch.Generator().manual_seed(7)
        scheduler.set_timesteps(**how)
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        noised.append(scheduler.add_noise(latents, latents.flip(0), scheduler.timesteps[:1].repeat(2)))
        trail = []
        for t in scheduler.timesteps:
            prediction = (latents * 0.7 + t / 1000).sin()
            latents, denoised = scheduler.step(prediction, t, latents, generator, return_dict=False)
            trail += [latents, denoised]
        samples.append(torch.stack(trail))
    assert torch.equal(lcm.timesteps, ours.timesteps)
    assert torch.equal(*noised)
    assert torch.equal(*samples)


def toy_unet(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """A function of the latent and the timestep."""
    return (0.8 * latents + timestep / 1000).tanh()


@pytest.mark.parametrize("steps", TIMESTEPS)
@pytest.mark.parametrize("shift", SHIFTED)
def test_sigma_form_of_comfyui(shift, steps, monkeypatch):
    """The same sampler in variance-exploding form: xc = x·c_in(σ), x' = xc·√(σ'²+1), x0 = x' − σ'·ε."""
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(steps + 1, 1, 4, 8, 8, generator=generator, dtype=torch.float64)
    fresh = iter(draws[1:])
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(fresh))
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(steps)
    latents = draws[0]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    sigmas = ((1 - alphas) / alphas).sqrt()
    x = draws[0] * (sigmas[999] ** 2 + 1).sqrt()
    for i, (t, shifted) in enumerate(zip(TIMESTEPS[steps], SHIFTED[shift][steps], strict=True)):
        out = scheduler.step(toy_unet(latents, shifted), scheduler.timesteps[i], latents)
        latents = out.prev_sample

        scaled = x / (sigmas[t] ** 2 + 1).sqrt()
        x0 = scaled * (sigmas[shifted] ** 2 + 1).sqrt() - sigmas[shifted] * toy_unet(scaled, shifted)
        torch.testing.assert_close(out.denoised, x0, rtol=1e-4, atol=1e-4)
        if i + 1 < steps:
            x = x0 + sigmas[TIMESTEPS[steps][i + 1]] * draws[i + 1]
    torch.testing.assert_close(latents, x0, rtol=1e-4, atol=1e-4)


# Three numbers through four steps of the released convention in diffusers' form, computed once in float64 by itself:
# x0 = (x − √(1−ᾱ')·ε)/√ᾱ', denoised = c_out·x0 + c_skip·x with LCM's boundary at 10·t', next = √ᾱ·denoised + √(1−ᾱ)·z.
SAMPLE, EPSILON, FRESH = [0.5, -1.0, 1.5], [0.3, -0.2, 1.0], [-0.4, 0.9, 0.1]
GOLDEN = {  # shift: (denoised, next sample) of each step
    250: [
        ([0.4004243, -1.0781306, 1.1319525], [-0.2932265, 0.6175995, 0.3664835]),
        ([-0.4956735, 0.8103713, -0.1242966], [-0.6011521, 1.1919302, 0.0194927]),
        ([-0.7662823, 1.3623018, -0.3767676], [-0.8576501, 1.6323411, -0.2526745]),
        ([-0.9618889, 1.7359231, -0.5163687], [-0.9618889, 1.7359231, -0.5163687]),
    ],
    500: [
        ([0.4650021, -1.5751588, 1.2337178], [-0.2778598, 0.4993282, 0.3906992]),
        ([-0.7274115, 0.9446978, -0.4970529], [-0.7232650, 1.2627127, -0.1769289]),
        ([-1.0880098, 1.6750740, -0.9084869], [-1.1220608, 1.8893919, -0.6896664]),
        ([-1.3268831, 2.1129086, -1.1399630], [-1.3268831, 2.1129086, -1.1399630]),
    ],
}


@pytest.mark.parametrize("shift", GOLDEN)
def test_golden_numbers_of_the_released_convention(shift, monkeypatch):
    sample, epsilon, fresh = (torch.tensor(row, dtype=torch.float64) for row in (SAMPLE, EPSILON, FRESH))
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: fresh)
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(4)
    for shifted, (denoised, following) in zip(scheduler.timesteps, GOLDEN[shift], strict=True):
        out = scheduler.step(epsilon, shifted, sample)
        assert out.denoised.tolist() == pytest.approx(denoised, abs=2e-5)
        assert out.prev_sample.tolist() == pytest.approx(following, abs=2e-5)
        sample = out.prev_sample


def test_noise_is_added_at_the_unshifted_timestep():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    clean, noise = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    with pytest.raises(ValueError, match=r"249.*set_timesteps"):  # there is no schedule yet
        scheduler.add_noise(clean[:1], noise[:1], torch.tensor([249]))
    scheduler.set_timesteps(4)
    reference = DDPMScheduler.from_config(scheduler.config).add_noise(clean, noise, torch.tensor(TIMESTEPS[4]))
    assert torch.equal(scheduler.add_noise(clean, noise, scheduler.timesteps), reference)
    with pytest.raises(ValueError, match=r"188.*DDPMScheduler"):
        scheduler.add_noise(clean[:1], noise[:1], torch.tensor([188]))


@pytest.mark.parametrize("shift", [0, -1, 1001, 250.5, "250", True, None])
def test_invalid_shift_is_refused(shift):
    with pytest.raises(ValueError, match=rf"shifted_timestep is {shift!r}.* 1 to 1000"):
        TimestepShiftLCMScheduler(shifted_timestep=shift)


BAD_TIMESTEPS = ([1000], [999, -1], [], [999.0, 499.5], [499, 999], [999, 499, 499], [True])
INVALID = [
    *(({"num_inference_steps": n}, rf"num_inference_steps is {n!r}.* 1 to 4 ") for n in (0, -2, 5, 2.0, True)),
    *(({"timesteps": timesteps}, "timesteps is ") for timesteps in BAD_TIMESTEPS),
    ({"num_inference_steps": 2, "strength": 0.25}, "strength is 0.25.* 2/4 "),
    ({"num_inference_steps": 4, "strength": 1.5}, "strength is 1.5"),
    ({"timesteps": [999, 499], "strength": 0.4}, "strength is 0.4.* 1/2 "),
    ({"timesteps": [999], "num_inference_steps": 1}, r"num_inference_steps is 1 and timesteps is \[999\]"),
    ({}, "num_inference_steps is None and timesteps is None"),
    ({"num_inference_steps": 1, "original_inference_steps": 1001}, "original_inference_steps is 1001.* 1000"),
    ({"num_inference_steps": 4}, r"shifted_timestep 3 .*\[999, 749, 499, 249\].*\[2, 2, 1, 0\]"),
]


@pytest.mark.parametrize(("arguments", "named"), INVALID)
def test_invalid_schedules_are_refused_and_the_old_one_stays(arguments, named):
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=3)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match=named):
        scheduler.set_timesteps(**arguments)
    assert scheduler.unshifted_timesteps.tolist() == [999, 499]
    assert scheduler.timesteps.tolist() == [2, 1]
    assert scheduler.num_inference_steps == 2
