"""Times of a call's parts, measured on a clock that only simulated work moves; speeds, against a loop by hand."""

import time
from operator import attrgetter

import pytest
import torch

from workbook.timing import matmul_speed, throughput, time_call

PROMPT = "a large solid red star"


@pytest.mark.parametrize(
    ("part", "owner", "method", "fastest", "slowest"),
    [
        ("text", "text_encoder_2", "forward", 2, 3),
        ("unet", "unet", "forward", 3 + 4, 5 + 6),
        ("vae", "vae.decoder", "forward", 2, 3),
        ("rest", "scheduler", "step", 3 + 4, 5 + 6),
    ],
)
def test_work_in_a_part_counts_for_that_part(untrained_pipeline, monkeypatch, part, owner, method, fastest, slowest):
    """Each call of `method` takes a second more than the last; the first of three images is not timed."""
    module = attrgetter(owner)(untrained_pipeline)
    work = getattr(module, method)
    calls: list[int] = []

    def slow(*arguments, **options):
        calls.append(len(calls) + 1)
        return work(*arguments, **options)

    monkeypatch.setitem(vars(module), method, slow)
    monkeypatch.setattr("workbook.timing._now", lambda: float(sum(calls)))
    times = time_call(untrained_pipeline, PROMPT, num_inference_steps=2, repeats=2)
    seconds = {name: getattr(times, name) for name in ("text", "unet", "vae", "rest")}
    median = (fastest + slowest) / 2
    assert seconds == {"text": 0, "unet": 0, "vae": 0, "rest": 0} | {part: median}
    assert (times.fastest, times.slowest, times.total) == (fastest, slowest, median)
    assert not {**untrained_pipeline.unet._forward_hooks, **untrained_pipeline.unet._forward_pre_hooks}


def test_speeds_are_those_of_a_loop_by_hand(untrained_pipeline):
    speeds = throughput(untrained_pipeline, PROMPT, (1, 3), repeats=2)
    assert {size: len(values) for size, values in speeds.items()} == {1: 2, 3: 2}
    start = time.perf_counter()
    untrained_pipeline([PROMPT] * 3, num_inference_steps=1, guidance_scale=0, output_type="pt")
    assert 0.1 < max(speeds[3]) / (3 / (time.perf_counter() - start)) < 10
    matrix = torch.ones(1024, 1024)
    start = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    by_hand = 5 * 2 * 1024**3 / (time.perf_counter() - start)
    assert 0.1 < matmul_speed(torch.device("cpu"), torch.float32) / by_hand < 10
