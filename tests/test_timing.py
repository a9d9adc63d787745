"""Clocks: what they measure on modules of known duration, and on the pipeline's parts."""

import time
from operator import attrgetter

import pytest
import torch
from torch import nn

from nitro_lab.studies.timing import clock, matmul_speed, throughput, time_call

PROMPT = "a large solid red star"


class Nap(nn.Module):
    """Sleeps as long as it is told."""

    def forward(self, seconds: float) -> None:
        time.sleep(seconds)


def test_clock_measures_each_pass_and_is_gone_afterwards():
    nap, other = Nap(), Nap()
    with clock([nap]) as seconds:
        for duration in (0.02, 0.05):
            nap(duration)
        other(0.03)
    nap(0.01)
    assert len(seconds) == 2
    assert seconds[0] >= 0.02
    assert seconds[1] >= 0.05
    assert not nap._forward_hooks
    assert not nap._forward_pre_hooks


@pytest.mark.parametrize(("steps", "guidance"), [(1, 0.0), (3, 3.0)])
def test_unet_is_asked_once_a_step(untrained_pipeline, steps, guidance):
    with clock([untrained_pipeline.unet]) as seconds:
        untrained_pipeline(PROMPT, num_inference_steps=steps, guidance_scale=guidance)
    assert len(seconds) == steps


@pytest.mark.parametrize(
    ("part", "owner", "method", "fastest", "slowest"),
    [
        ("text", "text_encoder_2", "forward", 2, 3),
        ("unet", "unet", "forward", 3 + 4, 5 + 6),
        ("vae", "vae.decoder", "forward", 2, 3),
        ("rest", "scheduler", "step", 3 + 4, 5 + 6),
    ],
)
def test_a_nap_in_a_part_is_in_the_time_of_that_part(
    untrained_pipeline, monkeypatch, part, owner, method, fastest, slowest
):
    """On a clock that only naps move: the first of a second, each a second longer than the last, two calls to time."""
    module = attrgetter(owner)(untrained_pipeline)
    work = getattr(module, method)
    naps: list[int] = []

    def slow(*arguments, **options):
        naps.append(len(naps) + 1)
        return work(*arguments, **options)

    monkeypatch.setitem(vars(module), method, slow)
    monkeypatch.setattr("nitro_lab.studies.timing.now", lambda: float(sum(naps)))
    times = time_call(untrained_pipeline, PROMPT, steps=2, repeats=2)
    seconds = {name: getattr(times, name) for name in ("text", "unet", "vae", "rest")}
    median = (fastest + slowest) / 2
    assert seconds == {"text": 0, "unet": 0, "vae": 0, "rest": 0} | {part: median}
    assert (times.fastest, times.slowest, times.total) == (fastest, slowest, median)


def test_parts_of_a_call_all_take_time_and_no_more_than_there_was(untrained_pipeline):
    start = time.perf_counter()
    times = time_call(untrained_pipeline, PROMPT, steps=2, repeats=2)
    elapsed = time.perf_counter() - start
    assert min(times.text, times.unet, times.vae, times.rest) > 0
    assert times.fastest <= times.slowest
    assert times.fastest + times.slowest <= elapsed


def test_throughput_has_a_value_for_each_repeat(untrained_pipeline):
    speeds = throughput(untrained_pipeline, PROMPT, (1, 3), repeats=2)
    assert {size: len(values) for size, values in speeds.items()} == {1: 2, 3: 2}
    start = time.perf_counter()
    untrained_pipeline([PROMPT] * 3, num_inference_steps=1, guidance_scale=0, output_type="pt")
    by_hand = 3 / (time.perf_counter() - start)
    assert by_hand / 10 < max(speeds[3]) < by_hand * 10


def test_matmul_speed_is_that_of_a_product_timed_by_hand():
    matrix = torch.ones(1024, 1024)
    start = time.perf_counter()
    for _ in range(5):
        matrix @ matrix
    by_hand = 5 * 2 * 1024**3 / (time.perf_counter() - start)
    assert by_hand / 10 < matmul_speed(torch.device("cpu"), torch.float32, repeats=3) < by_hand * 10
