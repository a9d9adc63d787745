"""Exercises of notebook 02: right answers are accepted, wrong ones get a hint that fits, none crashes the page."""

import pytest
import torch

from nitro_lab.exercises import inference as exercises
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.world import caption
from nitro_lab.randomness import seeded
from nitro_lab.sampling import imagine
from nitro_lab.scheduler import TimestepShiftLCMScheduler
from nitro_lab.studies.timing import CallTimes

FREQUENCY = torch.arange(1, 33) / 64
WORLD = (FREQUENCY, torch.ones(32))
SOFT = (FREQUENCY, torch.where(FREQUENCY < 0.25, 0.9, 0.2))
SHARP = (FREQUENCY, torch.full((32,), 0.9))
SPEEDS = {1: [20.0, 21.0, 22.0], 4: [40.0, 58.0, 60.0], 16: [60.0, 62.0, 90.0]}
TIMES = CallTimes(text=0.01, unet=0.06, vae=0.02, rest=0.01, fastest=0.1, slowest=0.1)
PARAMETERS = {"text encoder": 800_000_000, "UNet": 2_500_000_000}


def test_no_answer_is_no_error():
    checks = [
        exercises.unet_inputs(None),
        exercises.without_unet(None, TIMES),
        exercises.enough_images(None, SPEEDS),
        exercises.half_lost(None, SOFT, WORLD),
        exercises.offloaded_gigabytes(None, PARAMETERS),
    ]
    assert set(checks) == {exercises.UNANSWERED}


@pytest.mark.parametrize(("answer", "words"), [(50, "Right"), (25, "guidance"), (75, "how far"), (8, "count")])
def test_unet_inputs(answer, words):
    assert words in exercises.unet_inputs(answer)


@pytest.mark.parametrize(("answer", "words"), [(2.5, "Right"), (2.55, "Right"), (5 / 3, "left"), (7, "divide")])
def test_without_unet(answer, words):
    assert words in exercises.without_unet(answer, TIMES)


@pytest.mark.parametrize(
    ("answer", "words"), [(4, "Right"), (16, "smaller"), (1, "batch 1 gives 21 of at most 62"), (5, "1, 4, 16")]
)
def test_enough_images(answer, words):
    assert words in exercises.enough_images(answer, SPEEDS)


@pytest.mark.parametrize(("answer", "words"), [(0.25, "Right"), (0.1, "more"), (0.4, "less"), (16, "ends at 0.5")])
def test_half_lost(answer, words):
    assert words in exercises.half_lost(answer, SOFT, WORLD)


def test_half_lost_of_a_sharp_student_is_the_end_of_the_axis():
    assert "Right" in exercises.half_lost(0.5, SHARP, WORLD)
    assert "more" in exercises.half_lost(0.25, SHARP, WORLD)


@pytest.mark.parametrize(("answer", "words"), [(5.0, "Right"), (6.6, "together"), (10, "two bytes"), (3, "largest")])
def test_offloaded_gigabytes(answer, words):
    assert words in exercises.offloaded_gigabytes(answer, PARAMETERS)


def test_obedient_seed_asks_the_judge(untrained_pipeline):
    untrained_pipeline.scheduler = TimestepShiftLCMScheduler.from_config(untrained_pipeline.scheduler.config)
    judge = seeded(0, Judge).eval()
    seen = torch.tensor([0, 0, 0, 0, 0, 0])
    for _ in range(20):  # an untrained judge sees much the same in all pictures: ask for what it sees
        before, picture = seen, imagine(untrained_pipeline, caption(seen), seed=3, steps=1)[0]
        pixels = exercises.to_tensor(picture)
        seen = judge.look(pixels).factors[0]
        if torch.equal(before, seen):
            break
    assert "Right" in exercises.obedient_seed(3, untrained_pipeline, judge, seen)
    asked = seen.clone()
    asked[0] = 1 - asked[0]
    assert "size" in exercises.obedient_seed(3, untrained_pipeline, judge, asked)
    assert exercises.obedient_seed(None, untrained_pipeline, judge, asked) == exercises.UNANSWERED
