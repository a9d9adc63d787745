"""Checks of the exercises of notebook 01. Each takes an answer and says "Right", with the reason, or gives a hint."""

from collections.abc import Callable, Sequence

import torch

from nitro_lab.exercises import UNANSWERED
from nitro_lab.scheduler import TimestepShiftLCMScheduler

Reader = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]


def schedule(shift: int, steps: int) -> tuple[list[int], list[int]]:
    """True and told timesteps. Raises the scheduler's ValueError if two are told alike."""
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=shift)
    scheduler.set_timesteps(steps)
    return scheduler.true_timesteps.tolist(), scheduler.timesteps.tolist()


def told_times(answer: Sequence[int] | None, shift: int = 600, steps: int = 3) -> str:
    """Exercise 1: what the UNet is told, step by step."""
    if answer is None:
        return UNANSWERED
    true, told = schedule(shift, steps)
    given = list(answer)
    if given == told:
        return f"Right: floor(t · {shift} / 1000) of the true timesteps {true}."
    if given == true:
        return "Not yet: these are the true timesteps, the latent's. What is the UNet told at each of them?"
    if given == [round(t * shift / 1000) for t in true]:
        return "Not yet: you rounded. The scheduler does something else with the fraction (section 5)."
    if len(given) != steps:
        return f"Not yet: {steps} steps ask the UNet {steps} times; your answer has {len(given)} timesteps."
    return "Not yet: find the true timesteps of the schedule first (section 2), then shift each of them."


def error_ratio(answer: float | None, plain: int = 999, told: int = 249, tolerance: float = 0.01) -> str:
    """Exercise 2: how many times smaller an error in ε arrives in x0 when the UNet is told `told` and not `plain`."""
    if answer is None:
        return UNANSWERED
    alphas = TimestepShiftLCMScheduler().alphas_cumprod.double()
    roots = alphas.rsqrt()
    factors = ((1 - alphas) / alphas).sqrt()
    wanted = (factors[plain] / factors[told]).item()
    if abs(answer / wanted - 1) < tolerance:
        return f"Right: σ falls from {factors[plain]:.2f} to {factors[told]:.2f}, so {wanted:.1f} times."
    if abs(answer * wanted - 1) < tolerance:
        return "Not yet: you have divided the other way round."
    if abs(answer / (roots[plain] / roots[told]).item() - 1) < tolerance:
        return "Not yet: that is the ratio of 1/√ᾱ. In x0's formula ε has one more factor in front of it."
    return "Not yet: write x0 once with ε and once with ε + δ, and look at what stands before δ. That, at both times."


def smallest_shift(answer: int | None, steps: int = 4) -> str:
    """Exercise 3: the smallest shift at which so many steps are all told apart."""
    if answer is None:
        return UNANSWERED
    try:
        _, told = schedule(answer, steps)
    except ValueError as error:
        return f"Not yet: {error}"
    try:
        schedule(answer - 1, steps)
    except ValueError:
        return f"Right: the UNet is told {told}; one less, and two of them become the same."
    return f"Not yet: {answer} works (the UNet is told {told}), but a smaller one works too."


def read_in_sigma(answer: Reader | None, seed: int = 0) -> str:
    """Exercise 4: x0 in the convention of k-diffusion and ComfyUI, as a function (x, eps, sigma, sigma_told) -> x0.

    x = x0_true + σ·noise, of variance about 1 + σ²; eps is the UNet's answer when told t'.
    """
    if answer is None:
        return UNANSWERED
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=250)
    alphas = scheduler.alphas_cumprod.double()
    unit, eps = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for true, told in zip(*schedule(250, 4), strict=True):
        a, b = alphas[true], alphas[told]
        sigma, sigma_told = ((1 - a) / a).sqrt().item(), ((1 - b) / b).sqrt().item()
        x = unit * (sigma**2 + 1) ** 0.5
        given = answer(x, eps, sigma, sigma_told)
        wanted = (unit - (1 - b).sqrt() * eps) / b.sqrt()
        if torch.allclose(given, wanted, rtol=1e-4, atol=1e-4):
            continue
        if torch.allclose(given, x - sigma_told * eps, rtol=1e-4, atol=1e-4):
            return "Not yet: x has the size that belongs to σ, but σ' is subtracted as if it had σ's. Rescale x first."
        if torch.allclose(given, x - sigma * eps, rtol=1e-4, atol=1e-4):
            return "Not yet: that is x0 without a shift. Which clock reads x0 off?"
        return (
            f"Not yet: at t = {true}, told {told}, it is off by {(given - wanted).abs().max():.2f} or so. Scale x to "
            "variance 1 (divide by √(σ² + 1)), then to the size that x would have at σ', then take the noise away."
        )
    return "Right at all four steps: x' = x·√(σ'² + 1) / √(σ² + 1), then x0 = x' − σ'·ε."


def noise_level(answer: int | None, shift: int = 500, steps: int = 4, strength: float = 0.75) -> str:
    """Exercise 5: the timestep that image-to-image must noise the picture to."""
    if answer is None:
        return UNANSWERED
    true, told = schedule(shift, steps)
    skipped = steps - int(steps * strength)
    if answer == true[skipped]:
        return f"Right: {skipped} of {true} is left out, and the latent lives on the true clock."
    if answer in told:
        return "Not yet: that is on the told clock. The UNet would get a latent that is cleaner than it ever saw there."
    if answer in true:
        return f"Not yet: a true timestep of the schedule, but strength {strength} does not start there."
    return "Not yet: the answer is one of the true timesteps of the four-step schedule (section 2)."
