"""Training on a pretended GPU: one seed makes the same run as on the CPU, and a run moves between devices."""

import shutil

import pytest
import torch
from accelerate.state import AcceleratorState
from tiny_training import differing, saved_state, tiny

import pretend_cuda
from nitro_lab.models import load_pipeline
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.step import training_step

CONFIG = tiny(
    batch_size=2,
    stages=(1, 2),
    stage_steps=1,
    step_sampling="last_step",
    feature_indices=(3,),
    views=("global_conditional", "local_unconditional"),
    refresh_rate=0.2,
    deterministic=True,
)
MAX_WAITS = 4  # of the host in a training step, all at its end


def train(folder, steps, patch=None):
    """Train to a step, on the CPU with a patch. Returns the losses of the steps that it did."""
    AcceleratorState._reset_state(reset_partial_state=True)
    if patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
    run = TrainingRun(tiny(**{**vars(CONFIG), "max_train_steps": steps}), folder)
    losses = [report.disc_loss for report in run.steps()]
    assert run.state.accelerator.device.type == ("cpu" if patch else "cuda")
    if patch:
        patch.delenv("ACCELERATE_USE_CPU")
    return losses


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of runs of one step, on the GPU and on the CPU."""
    return {device: tmp_path_factory.mktemp(device) for device in ("cuda", "cpu")}


def test_a_run_resumes_bit_for_bit_and_has_the_losses_of_the_cpu(runs, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", 2)
    first = train(runs["cuda"], 1)
    assert first == whole[:1]
    shutil.copytree(runs["cuda"], tmp_path / "resumed")
    assert train(tmp_path / "resumed", 2) == whole[1:]
    assert differing(saved_state(tmp_path / "resumed"), saved_state(tmp_path / "whole")) == set()
    assert train(runs["cpu"], 1, monkeypatch) == pytest.approx(first, rel=1e-3)
    pipe = load_pipeline(tmp_path / "whole")
    assert pipe("a red star", num_inference_steps=2, guidance_scale=0, output_type="pt").images.isfinite().all()


def test_a_checkpoint_moves_between_devices(runs, tmp_path, monkeypatch):
    for device, folder in runs.items():
        shutil.copytree(folder, tmp_path / device)
    to_gpu, to_cpu = train(tmp_path / "cpu", 2), train(tmp_path / "cuda", 2, monkeypatch)
    assert to_gpu == pytest.approx(to_cpu, rel=1e-3)


def test_the_host_waits_for_the_gpu_only_at_the_end_of_a_step(tmp_path):
    state = TrainingRun(tiny(stages=(2,), step_sampling="last_step"), tmp_path).state
    training_step(state, 0)
    pretend_cuda.waits.clear()
    training_step(state, 1)
    assert sum(pretend_cuda.waits.values()) <= MAX_WAITS, pretend_cuda.report()


@pytest.mark.parametrize(("student", "precision"), [("full", "bf16"), ("lora", "fp16")])
def test_half_precision_and_gradient_accumulation(student, precision, tmp_path):
    settings = {"student": student, "mixed_precision": precision, "gradient_accumulation_steps": 2}
    (report,) = TrainingRun(tiny(max_train_steps=1, feature_indices=(3,), **settings), tmp_path).steps()
    assert torch.tensor([report.disc_loss, report.student_loss]).isfinite().all()
    assert load_pipeline(tmp_path)("a red star", num_inference_steps=1, guidance_scale=0).images
