"""Putting a run's student into the package: what is examined, what is written, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY

import nitro_lab.cards.student as student_card
import nitro_lab.exam as exam
import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.runs.folder import run


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package's; the teacher takes one step."""
    folder = tmp_path / "model"
    folder.mkdir()
    monkeypatch.setattr(student_card, "MODEL_FOLDER", folder)
    monkeypatch.setattr(student_card, "TEACHER_STEPS", 1)
    for module in (exam, teacher_samples):
        monkeypatch.setattr(module, "user_cache_path", lambda name: tmp_path / "cache")
    return folder


@pytest.mark.parametrize(
    ("changed", "students", "words"),
    [
        ({}, ["soft student, 1 step", "trained student, 1 step"], "a UNet for one step"),
        (
            {"student": "mini", "stages": (1, 2), "stage_steps": 1},
            [
                "soft student, 1 step",
                "before refinement, 1 step",
                "before refinement, 2 steps",
                "trained student, 1 step",
                "trained student, 2 steps",
            ],
            "a UNet for 1 to 2 steps",
        ),
    ],
)
def test_a_student_is_examined_at_every_number_of_steps_it_learned(shelf, tmp_path, changed, students, words):
    for _ in run(replace(TINY, steps=2, **changed), tmp_path / "run"):
        pass
    columns = student_card.install_student(tmp_path / "run", images=12)
    assert list(columns) == ["renders", "teacher, 1 steps", *students]
    assert json.loads((shelf / "critics_figures.json").read_text()) == columns
    installed, made = (
        load_file(file) for file in (shelf / "critics_unet.safetensors", tmp_path / "run" / "student.safetensors")
    )
    assert all((installed[name] == value).all() for name, value in made.items())
    card = (shelf / "critics.md").read_text()
    assert words in card
    assert all(name in card for name in students)
    assert {file.name for file in shelf.glob("*.png")} == {"critics_samples.png", "critics_curves.png"}


def test_a_folder_without_a_student_is_refused_before_the_exam(shelf, tmp_path):
    with pytest.raises(ValueError, match=r"no student\.safetensors; give the folder of a finished"):
        student_card.install_student(tmp_path)
    assert list(shelf.iterdir()) == []


def test_weights_can_be_moved_back_towards_the_start(shelf, tmp_path):
    for _ in run(replace(TINY, steps=2, student_rate=0.1), tmp_path / "run"):
        pass
    student_card.install_student(tmp_path / "run", images=12, blend=0.25)
    start, made, installed = (
        load_file(file)
        for file in (
            MODEL_FOLDER / "regressed_unet.safetensors",
            tmp_path / "run" / "student.safetensors",
            shelf / "critics_unet.safetensors",
        )
    )
    assert any((made[name] != value).any() for name, value in start.items())
    for name, value in installed.items():
        wanted = 0.75 * start[name].float() + 0.25 * made[name].float()
        torch.testing.assert_close(value.float(), wanted, rtol=1e-3, atol=1e-6)  # half precision
    assert "--blend 0.25" in (shelf / "critics.md").read_text()


@pytest.mark.parametrize("blend", [0, -0.1, 1.1])
def test_what_is_no_share_is_refused(shelf, tmp_path, blend):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        student_card.install_student(tmp_path, blend=blend)
