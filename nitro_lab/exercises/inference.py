"""Checks of the exercises of notebook 02. Each takes an answer and says "Right", with the reason, or gives a hint."""

import statistics
from collections.abc import Mapping, Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from nitro_lab.exercises import UNANSWERED
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.world import FACTORS, caption
from nitro_lab.sampling import imagine
from nitro_lab.studies.timing import CallTimes

Spectrum = tuple[torch.Tensor, torch.Tensor]


def unet_inputs(answer: int | None) -> str:
    """Exercise 1: latents that go through the UNet for one image of the teacher, 25 steps with guidance."""
    if answer is None:
        return UNANSWERED
    if answer == 50:
        return "Right: 25 steps, and guidance asks twice at each, with the prompt and with the empty prompt."
    hints = {
        25: "that is what it would be without guidance. What does guidance compare the prompt's answer with?",
        75: "3 is how far guidance goes beyond the prompt's answer, not how often it asks.",
    }
    return "Not yet: " + hints.get(answer, "count the steps, then what is asked at each of them.")


def without_unet(answer: float | None, times: CallTimes, tolerance: float = 0.05) -> str:
    """Exercise 2: how many times faster a call would be if its UNet took no time at all."""
    if answer is None:
        return UNANSWERED
    wanted = times.total / (times.total - times.unet)
    if abs(answer / wanted - 1) <= tolerance:
        return f"Right: {wanted:.1f} times, and no faster UNet can bring more (Amdahl's law). The rest has to be paid."
    if abs(answer * times.unet / times.total - 1) <= tolerance:
        return "Not yet: that is the whole over the UNet. What is left of the call when the UNet's time is gone?"
    return "Not yet: divide the time of the whole call by the time that is left without the UNet."


def enough_images(answer: int | None, speeds: Mapping[int, Sequence[float]], share: float = 0.9) -> str:
    """Exercise 3: the smallest batch that reaches this share of the highest median of images a second."""
    if answer is None:
        return UNANSWERED
    medians = {size: statistics.median(values) for size, values in speeds.items()}
    best = max(medians.values())
    wanted = min(size for size, median in medians.items() if median >= share * best)
    if answer == wanted:
        return f"Right: {medians[wanted]:.0f} of at most {best:.0f} images a second. More only makes people wait."
    if answer not in medians:
        return f"Not yet: choose one of the measured batch sizes, {', '.join(map(str, medians))}."
    if answer > wanted:
        return "Not yet: a smaller batch gets there too."
    return f"Not yet: batch {answer} gives {medians[answer]:.0f} of at most {best:.0f} images a second."


def half_lost(answer: float | None, student: Spectrum, reference: Spectrum, tolerance: float = 0.035) -> str:
    """Exercise 4: the lowest frequency (cycles per pixel) where the student has less than half the reference's power.

    0.5, the end of the axis, if there is none.
    """
    if answer is None:
        return UNANSWERED
    frequency, power = student
    lost = frequency[power < reference[1] / 2]
    wanted = lost[0].item() if len(lost) else 0.5
    if abs(answer - wanted) <= tolerance:
        return f"Right: {wanted:.2f} cycles per pixel, a wave {1 / wanted:.1f} pixels long."
    if answer > 0.5:
        return "Not yet: the axis ends at 0.5 cycles per pixel, a wave two pixels long."
    side = "more" if answer < wanted else "less"
    return f"Not yet: find where the curve of the right panel first falls below 0.5. It is at {side} than that."


def offloaded_gigabytes(answer: float | None, parameters: Mapping[str, int]) -> str:
    """Exercise 5: gigabytes (10⁹ bytes) of weights on the GPU at most, if it holds one part at a time in float16."""
    if answer is None:
        return UNANSWERED
    name, count = max(parameters.items(), key=lambda item: item[1])
    wanted = 2 * count / 1e9
    if abs(answer - wanted) < 0.06:
        return f"Right: {wanted:.2f} GB, the {name}. What the layers compute on the way comes on top."
    if abs(answer - 2 * sum(parameters.values()) / 1e9) < 0.06:
        return "Not yet: that is all parts together. Which is the largest that is there at one time?"
    if abs(answer - 2 * wanted) < 0.12:
        return "Not yet: float16 takes two bytes for a weight, not four."
    return "Not yet: take the largest part, and two bytes for each of its weights."


def obedient_seed(
    answer: int | None, pipe: StableDiffusionXLPipeline, judge: Judge, scene: torch.Tensor, steps: int = 1
) -> str:
    """Exercise 6: a seed for which the judge sees every factor of the scene (6,) in the picture."""
    if answer is None:
        return UNANSWERED
    picture, _ = imagine(pipe, caption(scene), answer, steps)
    seen = judge.look(to_tensor(picture).to(next(judge.parameters()).device)).factors[0].tolist()
    wrong = [
        f"{name} {values[see]} instead of {values[ask]}"
        for (name, values), see, ask in zip(FACTORS.items(), seen, scene.tolist(), strict=True)
        if see != ask
    ]
    return f"Not yet: the judge sees {', '.join(wrong)}." if wrong else f"Right: all six, with seed {answer}."


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return VaeImageProcessor.normalize(VaeImageProcessor.numpy_to_pt(VaeImageProcessor.pil_to_numpy(picture)))
