"""Every notebook runs at smoke scale on a GPU, or a pretended one: IPython runs a startup file in each kernel."""

import pytest
from test_notebooks import each_notebook

from workbook.notebook_runner import execute

STARTUP = """
import sys
sys.path.insert(0, {folder!r})
import pretend_cuda
pretend_cuda.on()
"""


@pytest.fixture(autouse=True)
def kernels_on_a_gpu(gpu_for_processes, tmp_path, monkeypatch, request):
    startup = tmp_path / "profile_default" / "startup" / "00.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(STARTUP.format(folder=str(request.path.parent)))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))


@each_notebook
def test_runs_at_smoke_scale_on_a_pretended_gpu(file):
    run = execute(file, scale="smoke")
    assert run.failure is None, f"{run.failure}: {run.error}"
