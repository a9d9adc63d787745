"""Exercises of notebook 02."""

from collections.abc import Mapping, Sequence
from statistics import median

import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.world import FACTORS, caption
from workbook.exercises.checker import NO_ANSWER, Feedback, accept, check, reject
from workbook.timing import CallTimes

__all__ = ["batch_size", "half_power", "offloaded_gigabytes", "seed_for_caption", "unet_inputs", "without_unet"]


def unet_inputs(answer: int | None) -> Feedback:
    """Exercise 1: latents that go through the UNet for one image of the teacher, 25 steps with guidance."""
    hints = {25: "that is the number without guidance.", 75: "3 scales a difference; it is not a number of passes."}
    right = "25 steps, each with the prompt and with the empty prompt."
    return check(answer, 50, right, hints, "how many latents does the UNet get at each step?")


def without_unet(answer: float | None, times: CallTimes) -> Feedback:
    """Exercise 2: how many times faster a call would be if its UNet took no time."""
    hints = {times.total / times.unet: "that is the whole call over the UNet. What is left without the UNet?"}
    otherwise = "divide the time of the whole call by the time that is left without the UNet."
    right = "no faster UNet can bring more (Amdahl's law)."
    return check(answer, times.total / (times.total - times.unet), right, hints, otherwise, tolerance=0.05)


def batch_size(answer: int | None, speeds: Mapping[int, Sequence[float]]) -> Feedback:
    """Exercise 3: the smallest batch that reaches 90 % of the highest median throughput."""
    medians = {size: median(values) for size, values in speeds.items()}
    best = max(medians.values())
    expected = min(size for size in medians if medians[size] >= 0.9 * best)
    words = {n: f"batch {n} gives {speed:.0f} of at most {best:.0f} images per second." for n, speed in medians.items()}
    hints = {n: word for n, word in words.items() if n < expected}
    return check(answer, expected, words[expected], hints, "a smaller batch reaches it, too.", choices=tuple(medians))


def half_power(answer: float | None, student: Sequence[torch.Tensor], reference: Sequence[torch.Tensor]) -> Feedback:
    """Exercise 4: the lowest frequency (cycles per pixel) with less than half the reference's power, or 0.5."""
    low = student[0][student[1] < reference[1] / 2].tolist()
    expected = min([*low, 0.5])
    right = f"{expected:.2f} cycles per pixel, a wave {1 / expected:.1f} pixels long."
    otherwise = "find where the curve in the right panel first falls below 0.5."
    return check(answer, expected, right, {}, otherwise, tolerance=0.1)


def offloaded_gigabytes(answer: float | None, parameters: Mapping[str, int]) -> Feedback:
    """Exercise 5: gigabytes (10⁹ bytes) of weights on the GPU at most, one part at a time in float16."""
    largest, total = (2 * function(parameters.values()) / 1e9 for function in (max, sum))
    hints = {total: "that is all parts together.", 2 * largest: "float16 takes two bytes per parameter, not four."}
    right = f"{largest:.2f} GB, the largest part. Activations come on top."
    return check(answer, largest, right, hints, "take the largest part, two bytes per parameter.", tolerance=0.012)


def seed_for_caption(
    answer: int | None, pipe: StableDiffusionXLPipeline, classifier: SceneClassifier, scene: torch.Tensor
) -> Feedback:
    """Exercise 6: a seed with which the classifier predicts all factors of the scene (6,) from a one-step image."""
    if answer is None:
        return NO_ANSWER
    options = {"num_inference_steps": 1, "guidance_scale": 0, "output_type": "pt"}
    image = pipe(caption(scene), generator=torch.Generator().manual_seed(answer), **options).images
    predicted = classifier.predict(2 * image.float() - 1).factors[0].tolist()
    rows = zip(FACTORS.items(), predicted, scene.tolist(), strict=True)
    wrong = [f"{name} {values[p]} instead of {values[e]}" for (name, values), p, e in rows if p != e]
    return reject(f"the classifier predicts {', '.join(wrong)}.") if wrong else accept(f"all six, with seed {answer}.")
