"""Real processes: one that is killed again and again ends as if it had never been, and two train as one."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_training import TINY, differing, saved_state, saved_step

from nitro_lab.checkpoints import load_pipeline

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.distill import distill
from nitro_lab.distill_config import DistillConfig

settings, cache, folder, threads = json.loads(sys.argv[1])
settings["t_star"] = tuple(settings["t_star"])
torch.set_num_threads(threads)
teacher_samples.user_cache_path = lambda name: Path(cache)
for report in distill(DistillConfig(**settings), Path(folder)):
    numbers = [report.step, report.critic_loss, report.student_loss, report.gradient_norm]
    print(json.dumps([numbers, report.seconds]), flush=True)
"""
LONG = replace(TINY, steps=16, save_every=1)
SHORT = replace(TINY, steps=2, student_every=2)  # the second step shows where the student's first one led
LIMIT = 1200  # seconds, for a machine that is busy with something else: a child that hangs is ended, and its test fails
Start = Callable[..., subprocess.Popen]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a process that trains in a folder and prints a line after each step; none outlives the tests."""
    cache, children, timers = tmp_path_factory.mktemp("cache"), [], []

    def start_one(config, folder: Path, **environment: str) -> subprocess.Popen:
        arguments = json.dumps([asdict(config), str(cache), str(folder), torch.get_num_threads()])
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, arguments],
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        timers.append(threading.Timer(LIMIT, child.kill))
        timers[-1].start()
        return child

    yield start_one
    for timer in timers:
        timer.cancel()
    for child in children:
        child.kill()
        child.communicate()


def finish(child: subprocess.Popen) -> list[list[float]]:
    """Numbers of every step: its number, critic loss, student loss, gradient norm."""
    output, errors = child.communicate()
    assert child.returncode == 0, errors[-2000:]
    return [json.loads(line)[0] for line in output.splitlines() if line.startswith("[")]


def kill_after(child: subprocess.Popen, steps: int, more: float) -> None:
    """SIGKILL when so many steps and a part of one have passed: in a step, or in the middle of a save."""
    assert child.stdout is not None
    for _ in range(steps):
        line = child.stdout.readline()
        assert line.startswith("["), child.communicate()[1][-2000:]
    time.sleep(more * json.loads(line)[1])
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def test_killed_three_times_and_restarted_is_uncut_bit_for_bit(start, tmp_path):
    numbers = finish(start(LONG, tmp_path / "uncut"))
    chance = random.Random()  # other moments each time; the message tells them
    moments = [(chance.randint(2, 3), chance.uniform(0, 1.5)) for _ in range(3)]  # at the second, one is saved
    for steps, more in moments:
        kill_after(start(LONG, tmp_path / "killed"), steps, more)
    survived = saved_step(tmp_path / "killed")
    told = f"killed at {moments}, step {survived} survived"
    assert 0 < survived < LONG.steps, told
    assert finish(start(LONG, tmp_path / "killed")) == numbers[survived:], told
    assert differing(saved_state(tmp_path / "uncut"), saved_state(tmp_path / "killed")) == set(), told


def test_two_processes_train_as_one(start, tmp_path):
    one = finish(start(SHORT, tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [start(SHORT, tmp_path / "two", **world, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    first, second = (finish(child) for child in ranks)
    assert first == second
    for numbers, wanted in zip(first, one, strict=True):
        assert numbers == pytest.approx(wanted, rel=1e-4, abs=1e-5, nan_ok=True)
    alone, together = student_of(tmp_path / "one"), student_of(tmp_path / "two")
    before = load_pipeline("mini-regressed", device="cpu").unet.state_dict()
    # AdamW's first step is as long as its rate: a weight whose gradient is nothing but rounding moves either way.
    assert distance(alone, together) < 0.03 * distance(alone, before)
    # Its first moments are the gradient itself, but for a factor.
    alone, together = (moments_of(tmp_path / name) for name in ("one", "two"))
    nothing = {name: torch.zeros_like(value) for name, value in alone.items()}
    assert distance(alone, together) < 5e-3 * distance(alone, nothing)


def student_of(folder: Path) -> dict[str, torch.Tensor]:
    """The student's weights in a checkpoint."""
    state = saved_state(folder)
    return {name.removeprefix("student/"): value for name, value in state.items() if name.startswith("student/")}


def moments_of(folder: Path) -> dict[str, torch.Tensor]:
    """AdamW's first moments of the student in a checkpoint."""
    return {name: value for name, value in saved_state(folder).items() if name.endswith("/exp_avg")}


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Euclidean, over all weights."""
    return sum((value.double() - second[name].double()).square().sum().item() for name, value in first.items()) ** 0.5
