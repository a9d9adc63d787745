"""The scenarios in tests/pretend_cuda on a GPU, or a pretended one: a process for each file, since torch is patched."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
SCENARIOS = sorted((FOLDER / "pretend_cuda").glob("on_*.py"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_on_a_pretended_gpu(file, gpu_for_processes):
    command = [sys.executable, "-m", "pytest", "-p", "pretend_cuda", "-p", "no:cacheprovider", "-p", "no:xdist", file]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(FOLDER)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    if " passed" not in done.stdout:
        pytest.skip("torch was built for GPUs, and there is none")
