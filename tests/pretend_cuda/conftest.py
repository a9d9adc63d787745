"""Each test runs on a GPU, a pretended one where torch has none, with a cache folder of its own.

A pretended GPU fails the test if it mixed devices, even if the error was caught.
"""

from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

import pretend_cuda
from nitro_lab.evaluation import eval_set, two_sample


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def gpu(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))  # not a patch of the package, which `compare` would refuse
    monkeypatch.setattr(eval_set, "TEACHER_STEPS", 1)
    monkeypatch.setattr(two_sample, "_EPOCHS", 1)
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the device of the process's first run
    pretend_cuda.mixups.clear()
    pretend_cuda.on()
    if not torch.cuda.is_available():
        pytest.skip("torch was built for GPUs, and there is none")
    yield
    pretend_cuda.off()
    assert pretend_cuda.mixups == []
