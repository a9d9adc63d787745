"""Exercises of notebook 02: right answers are accepted, wrong ones are not."""

from unittest.mock import Mock

import pytest
import torch

from nitro_lab.scheduler import TimestepShiftLCMScheduler
from workbook.exercises import inference as exercises
from workbook.timing import CallTimes

FREQUENCY = torch.arange(1, 33) / 64
WORLD = (FREQUENCY, torch.ones(32))
SOFT = (FREQUENCY, torch.where(FREQUENCY < 0.25, 0.9, 0.2))
SHARP = (FREQUENCY, torch.full((32,), 0.9))
SPEEDS = {1: [20.0, 21.0, 22.0], 4: [40.0, 58.0, 60.0], 16: [60.0, 62.0, 90.0]}
TIMES = CallTimes(text=0.01, unet=0.06, vae=0.02, rest=0.01, fastest=0.1, slowest=0.1)
PARAMETERS = {"text encoder": 800_000_000, "UNet": 2_500_000_000}
CASES = {  # exercise, its data -> right answers, wrong answers
    "unet_inputs": (exercises.unet_inputs, (), (50,), (25, 75, 8)),
    "without_unet": (exercises.without_unet, (TIMES,), (2.5, 2.55), (5 / 3, 7)),
    "batch_size": (exercises.batch_size, (SPEEDS,), (4,), (16, 1, 5)),
    "half_power": (exercises.half_power, (SOFT, WORLD), (0.25, 0.26), (0.1, 0.4, 16)),
    "half_power, none": (exercises.half_power, (SHARP, WORLD), (0.5,), (0.25,)),
    "offloaded_gigabytes": (exercises.offloaded_gigabytes, (PARAMETERS,), (5.0, 5), (6.6, 10, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_answers(case):
    exercise, data, right, wrong = CASES[case]
    assert all(exercise(answer, *data).startswith("Right") for answer in right)
    assert not any(exercise(answer, *data).startswith("Right") for answer in (*wrong, None))


def test_seed_for_caption_asks_the_classifier(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    factors = torch.tensor([[1, 0, 0, 0, 0, 0]])
    classifier = Mock()
    classifier.predict.return_value.factors = factors
    for answer, scene, word in [(3, factors[0], "Right"), (3, 0 * factors[0], "size"), (None, factors[0], "No answer")]:
        assert word in exercises.seed_for_caption(answer, untrained_pipeline, classifier, scene)
    (images,) = classifier.predict.call_args.args
    assert images.shape == (1, 3, 64, 64)
    assert images.min() < 0
