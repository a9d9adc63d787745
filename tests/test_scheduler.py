"""The shifted scheduler against PAPER's tables, LCM itself, ComfyUI's sigma form, and the released convention."""

import pytest
import torch
from diffusers import DDPMScheduler, LCMScheduler

from nitro_lab.scheduler import TimestepShiftLCMScheduler

SHIFTS = {"NitroSD-Realism": 250, "NitroSD-Vibrant": 500}
TRUE = {1: [999], 2: [999, 499], 3: [999, 749, 499], 4: [999, 749, 499, 249]}
TOLD = {
    250: {1: [249], 2: [249, 124], 3: [249, 187, 124], 4: [249, 187, 124, 62]},
    500: {1: [499], 2: [499, 249], 3: [499, 374, 249], 4: [499, 374, 249, 124]},
}


@pytest.mark.parametrize("steps", TRUE)
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_true_and_told_timesteps_of_the_paper(shift, steps):
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(steps)
    assert scheduler.true_timesteps.tolist() == TRUE[steps]
    assert scheduler.timesteps.tolist() == TOLD[shift][steps]


def test_custom_timesteps_are_true_ones():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    scheduler.set_timesteps(timesteps=[999, 600, 30])
    assert scheduler.true_timesteps.tolist() == [999, 600, 30]
    assert scheduler.timesteps.tolist() == [249, 150, 7]


def test_strength_cuts_the_beginning_of_the_schedule():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=500)
    scheduler.set_timesteps(2, strength=0.5)
    assert scheduler.true_timesteps.tolist() == [499, 249]
    assert scheduler.timesteps.tolist() == [249, 124]


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


def toy_unet(latents: torch.Tensor, told: int) -> torch.Tensor:
    """Something that depends on the latent and on the time that it is told."""
    return (0.8 * latents + told / 1000).tanh()


@pytest.mark.parametrize("steps", TRUE)
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
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
    for i, (true, told) in enumerate(zip(TRUE[steps], TOLD[shift][steps], strict=True)):
        out = scheduler.step(toy_unet(latents, told), scheduler.timesteps[i], latents)
        latents = out.prev_sample

        scaled = x / (sigmas[true] ** 2 + 1).sqrt()
        x0 = scaled * (sigmas[told] ** 2 + 1).sqrt() - sigmas[told] * toy_unet(scaled, told)
        torch.testing.assert_close(out.denoised, x0, rtol=1e-4, atol=1e-4)
        if i + 1 < steps:
            x = x0 + sigmas[TRUE[steps][i + 1]] * draws[i + 1]
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
    for told, (denoised, following) in zip(scheduler.timesteps, GOLDEN[shift], strict=True):
        out = scheduler.step(epsilon, told, sample)
        assert out.denoised.tolist() == pytest.approx(denoised, abs=2e-5)
        assert out.prev_sample.tolist() == pytest.approx(following, abs=2e-5)
        sample = out.prev_sample


@pytest.mark.parametrize(("t", "amplification"), [(999, 14.65), (249, 1.22), (499, 1.90)])
def test_an_error_of_the_noise_is_amplified_as_the_paper_computes(t, amplification):
    alphas = TimestepShiftLCMScheduler().alphas_cumprod
    assert alphas[t].rsqrt().item() == pytest.approx(amplification, abs=0.005)


def test_noise_is_added_at_the_true_level():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    scheduler.set_timesteps(4)
    clean, noise = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    noised = scheduler.add_noise(clean, noise, scheduler.timesteps)
    alpha = scheduler.alphas_cumprod[torch.tensor(TRUE[4])].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(noised, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise)
    reference = DDPMScheduler.from_config(scheduler.config).add_noise(clean, noise, torch.tensor(TRUE[4]))
    assert torch.equal(noised, reference)


@pytest.mark.parametrize("steps", [None, 2])
def test_noise_off_the_schedule_is_refused(steps):
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    if steps:
        scheduler.set_timesteps(steps)
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.add_noise(torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([187]))


@pytest.mark.parametrize("shift", [0, -1, 1001, 250.5, "250"])
def test_shift_out_of_range_is_refused(shift):
    with pytest.raises(ValueError, match=r"an integer from 1 to num_train_timesteps \(1000\)"):
        TimestepShiftLCMScheduler(shifted_timestep=shift)


@pytest.mark.parametrize("steps", [0, -2, 5])
def test_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ValueError, match=r"from 1 to original_inference_steps \(4\)"):
        TimestepShiftLCMScheduler().set_timesteps(steps)


@pytest.mark.parametrize("timesteps", [[1000], [999, -1], [], [999.0, 499.5], [499, 999], [999, 499, 499]])
def test_timesteps_that_are_no_schedule_are_refused(timesteps):
    with pytest.raises(ValueError, match="at least one integer from 0 to 999, in strictly descending order"):
        TimestepShiftLCMScheduler().set_timesteps(timesteps=timesteps)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"num_inference_steps": 2, "strength": 0.25}, "at strength 0.25 of 4 steps 1 is left, and 2 are .* 2/4 to 1"),
        ({"num_inference_steps": 1, "strength": 0.1}, "at strength 0.1 of 4 steps 0 are left, and 1 is .* 1/4 to 1"),
        ({"num_inference_steps": 4, "strength": 1.5}, "strength must be from 4/4 to 1"),
        ({"timesteps": [999, 499], "strength": 0.4}, "at strength 0.4 of 2 steps 0 are left"),
        ({"timesteps": [999], "num_inference_steps": 1}, "give one of the two"),
        ({}, "Give num_inference_steps, or your own"),
    ],
)
def test_schedules_without_enough_steps_are_refused(how, said):
    with pytest.raises(ValueError, match=said):
        TimestepShiftLCMScheduler().set_timesteps(**how)


@pytest.mark.parametrize(("steps", "strength"), [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)])
def test_the_least_strength_that_is_named_is_enough(steps, strength):
    scheduler = TimestepShiftLCMScheduler()
    scheduler.set_timesteps(steps, strength=strength)
    assert scheduler.true_timesteps.tolist() == [999, 749, 499, 249][4 - steps :]


def test_steps_that_would_be_told_the_same_are_refused():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=3)
    with pytest.raises(ValueError, match=r"\[2, 2, 1, 0\].*larger shifted_timestep or fewer steps"):
        scheduler.set_timesteps(4)


def test_a_refused_schedule_leaves_the_old_one():
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=4)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="become the same"):
        scheduler.set_timesteps(timesteps=[999, 998])
    assert scheduler.true_timesteps.tolist() == [999, 499]
    assert scheduler.timesteps.tolist() == [3, 1]
