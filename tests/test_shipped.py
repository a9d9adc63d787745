"""What the package ships: small, whole, safe, and with the gap that critics are to close."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.exam import Exam, mark, set_exam, sit
from nitro_lab.gap import tell_apart
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.build import STAGES
from nitro_lab.mini.judge import load_judge

IMAGES = 64
SEED = 7


@pytest.fixture(scope="module")
def teacher() -> StableDiffusionXLPipeline:
    return load_pipeline("mini-teacher")


@pytest.fixture(scope="module")
def exam(teacher) -> Exam:
    return set_exam(teacher, load_judge(), images=2 * IMAGES, seed=SEED)


@pytest.fixture(scope="module")
def images(teacher, exam) -> dict[str, torch.Tensor]:
    """The same captions and noise through teacher and student, in as few steps as keep the teacher a teacher."""
    return {"teacher": sit(exam, teacher, 12, guidance=3), "student": sit(exam, load_pipeline("mini"), 1)}


def test_at_most_40_megabytes_and_no_pickles():
    files = [file for file in MODEL_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md", ".png"}


def test_card_tells_how_it_was_made():
    card = (MODEL_FOLDER / "README.md").read_text()
    assert all(f"| {stage} |" in card for stage in STAGES)
    assert all(word in card for word in ("| seed |", "| commit |", "| hardware |", "(curves.png)", "(samples.png)"))
    figures = json.loads((MODEL_FOLDER / "figures.json").read_text())
    assert f"| PSNR in dB | {figures['autoencoder']['PSNR in dB']:.4g} |" in card


def test_loads_in_a_fresh_process():
    """Nothing that other tests have imported helps it."""
    code = "from nitro_lab import load_pipeline; print(type(load_pipeline('mini').tokenizer).__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "WorldTokenizer\n", run.stderr


def test_is_diffusers_own_pipeline(teacher):
    assert type(teacher) is StableDiffusionXLPipeline


def test_teacher_draws_what_is_asked(exam, images):
    marks = mark(exam, images["teacher"])
    asked_by_chance = {
        "size": 1 / 2,
        "color": 1 / 8,
        "place": 1 / 5,
        "background": 1 / 4,
        "shape": 1 / 6,
        "texture": 1 / 5,
    }
    assert all(marks[name] > 1.5 * chance for name, chance in asked_by_chance.items()), marks


def test_student_is_softer_than_its_teacher(exam, images):
    assert mark(exam, images["student"])["sharpness"] < mark(exam, images["teacher"])["sharpness"]


def test_a_fresh_network_sees_the_gap(images):
    training, testing = ([batch[rows] for batch in images.values()] for rows in (slice(IMAGES), slice(IMAGES, None)))
    assert tell_apart(tuple(training), tuple(testing), steps=80) > 0.75  # the card has the figure of the full exam
