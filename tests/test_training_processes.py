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
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tiny_training import differing, saved_state, saved_step, tiny

from nitro_lab.training.state import prepare_training

SCRIPT = """
import json, sys
from pathlib import Path
import torch
import nitro_lab.training.data as data
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.config import DistillConfig

settings, cache, folder, threads = json.loads(sys.argv[1])
settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
torch.set_num_threads(threads)
data.user_cache_path = lambda name: Path(cache)
for r in TrainingRun(DistillConfig(**settings), Path(folder)).steps():
    print(json.dumps([[r.step, r.disc_loss, r.student_loss, r.grad_norm], r.seconds]), flush=True)
"""
LONG = tiny(max_train_steps=16, checkpointing_steps=1)
SHORT = tiny(max_train_steps=2, student_update_freq=1)  # the second step shows where the student's first one led
LIMIT = 1200  # seconds, for a machine that is busy with something else: a child that hangs is ended, and its test fails


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start a process that trains in a folder and prints a line after each step; none outlives the tests."""
    cache, cleanup = tmp_path_factory.mktemp("cache"), ExitStack()

    def start_one(config, folder: Path, **environment: str) -> subprocess.Popen:
        arguments = json.dumps([asdict(config), str(cache), str(folder), torch.get_num_threads()])
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, arguments],
            env=os.environ | {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        timer = threading.Timer(LIMIT, child.kill)
        timer.start()
        for end in (child.communicate, child.kill, timer.cancel):  # the last one first
            cleanup.callback(end)
        return child

    with cleanup:
        yield start_one


def finish(child: subprocess.Popen) -> list[list[float]]:
    """Numbers of every step: step, L_D, L_G, gradient norm."""
    output, errors = child.communicate()
    assert child.returncode == 0, errors[-2000:]
    return [json.loads(line)[0] for line in output.splitlines() if line.startswith("[")]


def kill_after(child: subprocess.Popen, steps: int, more: float) -> None:
    """SIGKILL when so many steps and a part of one have passed: in a step, or in the middle of a save."""
    for _ in range(steps):
        line = child.stdout.readline()
        assert line.startswith("["), child.communicate()[1][-2000:]
    time.sleep(more * json.loads(line)[1])
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL


def test_killed_three_times_and_restarted_is_uncut_bit_for_bit(start, tmp_path):
    numbers = finish(start(LONG, tmp_path / "uncut"))
    generator = random.Random()  # other moments each time, in the message
    moments = [(generator.randint(2, 3), generator.uniform(0, 1.5)) for _ in range(3)]  # at the second, one is saved
    for steps, more in moments:
        kill_after(start(LONG, tmp_path / "killed"), steps, more)
    survived = saved_step(tmp_path / "killed")
    moment = f"killed at {moments}, step {survived} survived"
    assert 0 < survived < LONG.max_train_steps, moment
    assert finish(start(LONG, tmp_path / "killed")) == numbers[survived:], moment
    assert differing(saved_state(tmp_path / "uncut"), saved_state(tmp_path / "killed")) == set(), moment


MORE = {"one UNet each": {}, "a LoRA each": {"student": "lora", "lora_rank": 4}, "sharded": {"shard": True}}


@pytest.mark.parametrize("settings", MORE.values(), ids=MORE)
def test_two_processes_train_as_one(start, tmp_path, settings):
    together = replace(SHORT, **settings)
    one = finish(start(replace(together, shard=False), tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    for steps in (1, 2):  # stopped and resumed
        config = replace(together, max_train_steps=steps)
        ranks = [start(config, tmp_path / "two", **world, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
        first, second = (finish(child) for child in ranks)
        assert first == second
        expected = torch.tensor(one[steps - 1 : steps])
        close = {"rtol": 1e-4, "atol": 1e-5 if steps == 1 else 5e-4, "equal_nan": True}  # see AdamW below
        torch.testing.assert_close(torch.tensor(first), expected, **close)
    state, alone = saved_state(tmp_path / "two"), saved_state(tmp_path / "one")
    assert {name: value.shape for name, value in state.items()} == {name: value.shape for name, value in alone.items()}
    start_of = prepare_training(replace(together, shard=False), tmp_path / "start").trained.state_dict()
    before = {f"student/{name}": value for name, value in start_of.items()}
    # AdamW's first step is as long as its rate: a weight whose gradient is nothing but rounding moves either way.
    assert distance(alone, state, before) < 0.03 * distance(alone, before, before)
    # Its first moments are the gradient itself, but for a factor.
    nothing = {name: torch.zeros_like(value) for name, value in alone.items() if name.endswith("/exp_avg")}
    assert distance(alone, state, nothing) < 5e-3 * distance(alone, nothing, nothing)


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], names: Iterable[str]) -> float:
    """Euclidean, over all weights of these names."""
    return sum((first[name].double() - second[name].double()).square().sum().item() for name in names) ** 0.5
