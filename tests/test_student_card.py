"""`python -m tools.miniature install`: which students are evaluated, what is written, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import tiny

from nitro_lab.evaluation import eval_set
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.training import data
from nitro_lab.training.run import TrainingRun
from tools.miniature import student_card


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package's; the teacher takes one step."""
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.setattr(student_card, "MODEL_FOLDER", folder)
    monkeypatch.setattr(student_card, "TEACHER_STEPS", 1)
    monkeypatch.setattr(student_card, "FEW_TEACHER_STEPS", ())
    for module in (eval_set, data):
        monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / "cache")
    return folder


@pytest.mark.parametrize("stages", [(1,), (1, 2)])
def test_a_student_is_evaluated_at_every_number_of_steps_it_was_trained_for(installed, tmp_path, stages):
    students = ["regressed student, 1 step", "trained student, 1 step"]
    settings = {}
    if stages == (1, 2):
        settings = {"init_from": "mini", "stages": stages, "stage_steps": 1}
        before = ["before refinement, 1 step", "before refinement, 2 steps"]
        students = [students[0], *before, students[1], "trained student, 2 steps"]
    list(TrainingRun(tiny(max_train_steps=2, **settings), tmp_path / "run").steps())
    columns = student_card.install(tmp_path / "run", num_images=12)
    assert list(columns) == ["renders", "teacher, 1 step", *students]
    assert json.loads((installed / "student_figures.json").read_text()) == columns
    ours = load_file(installed / "student_unet.safetensors")
    theirs = load_file(tmp_path / "run/student.safetensors")
    assert all((ours[name] == value).all() for name, value in theirs.items())


@pytest.mark.parametrize(
    ("blend", "named"),
    [(1, r"student\.safetensors"), (0, "blend is 0"), (-0.1, "blend is -0.1"), (1.1, "blend is 1.1")],
)
def test_folders_without_a_student_and_fractions_out_of_range_are_refused(installed, tmp_path, blend, named):
    with pytest.raises(ValueError, match=named):
        student_card.install(tmp_path, blend=blend)
    assert list(installed.iterdir()) == []


def test_weights_can_be_blended_with_those_at_the_start(installed, tmp_path):
    list(TrainingRun(tiny(max_train_steps=2, learning_rate=0.1), tmp_path / "run").steps())
    student_card.install(tmp_path / "run", num_images=12, blend=0.25)
    files = MODEL_FOLDER / "regressed_unet.safetensors", tmp_path / "run/student.safetensors"
    start, trained = map(load_file, files)
    assert any((trained[name] != value).any() for name, value in start.items())
    for name, value in load_file(installed / "student_unet.safetensors").items():
        expected = 0.75 * start[name].float() + 0.25 * trained[name].float()
        torch.testing.assert_close(value.float(), expected, rtol=1e-3, atol=1e-6)  # half precision
