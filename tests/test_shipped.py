"""What the package ships: small, complete, safe files, and students that relate to their teacher as documented."""

import json

import numpy as np
import pytest
from diffusers import StableDiffusionXLPipeline

from nitro_lab import load_pipeline
from nitro_lab.evaluation.eval_set import compute_metrics, make_eval_set, sample_eval_set
from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.mini.world import FACTORS
from nitro_lab.sampling import sample_image


@pytest.fixture(scope="module")
def metrics() -> dict[str, dict[str, float]]:
    """Teacher and students on the same captions and noise; few steps, but enough for a useful teacher."""
    teacher = load_pipeline("mini-teacher")
    eval_set = make_eval_set(teacher, load_scene_classifier(teacher.device), num_images=96, seed=7)
    images = {
        "teacher": sample_eval_set(eval_set, teacher, 12, guidance_scale=3),
        "regressed": sample_eval_set(eval_set, load_pipeline("mini-regressed"), 1),
        "trained": sample_eval_set(eval_set, load_pipeline("mini"), 1),
    }
    return {name: compute_metrics(eval_set, sampled) for name, sampled in images.items()}


def test_at_most_40_megabytes_and_no_pickles():
    files = [file for file in MODEL_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md", ".png"}


def test_cards_have_the_figures_that_were_computed():
    figures = json.loads((MODEL_FOLDER / "figures.json").read_text())
    assert f"| {figures['autoencoder']['PSNR in dB']:.4g} |" in (MODEL_FOLDER / "README.md").read_text()
    columns = json.loads((MODEL_FOLDER / "student_figures.json").read_text()).values()
    sharpness = " | ".join(f"{column['sharpness']:.4g}" for column in columns)
    assert f"| {sharpness} |" in (MODEL_FOLDER / "student.md").read_text()


@pytest.mark.parametrize(("steps", "mean", "pixel"), [(1, 117.6, (110, 5, 10)), (4, 111.9, (151, 12, 20))])
def test_golden_images_of_the_student(steps, mean, pixel):
    pipe = load_pipeline("mini", device="cpu")
    assert type(pipe) is StableDiffusionXLPipeline
    image, _ = sample_image(pipe, "a large striped red star at the top on a sunset background", 0, steps)
    assert np.asarray(image).mean() == pytest.approx(mean, abs=0.2)
    assert image.getpixel((32, 16)) == pytest.approx(pixel, abs=2)


def test_students_relate_to_each_other_and_to_the_teacher(metrics):
    teacher, regressed, trained = metrics["teacher"], metrics["regressed"], metrics["trained"]
    assert all(teacher[name] > 1.5 / len(values) for name, values in FACTORS.items()), teacher  # better than chance
    assert regressed["sharpness"] < teacher["sharpness"]
    assert regressed["FD"] > teacher["FD"]
    assert teacher["FD (random)"] < trained["FD (random)"] < 0.5 * regressed["FD (random)"]
    assert trained["sharpness"] > 1.2 * regressed["sharpness"]
    assert trained["FD"] < regressed["FD"]
    assert trained["all"] > regressed["all"] - 0.08  # two standard errors of so few images


def test_figures_of_the_cards():
    figures = json.loads((MODEL_FOLDER / "figures.json").read_text())
    classifier = figures["classifier on renders"]
    assert min(classifier[name] for name in FACTORS) >= 0.98
    assert min(classifier[f"{name}, large"] for name in FACTORS if name != "size") >= 0.99
    assert figures["regressed student"]["FD"] >= 1.7 * figures["teacher"]["FD"]
    assert figures["regressed student"]["told_apart"] >= 0.9
    columns = json.loads((MODEL_FOLDER / "student_figures.json").read_text())
    names = ("teacher, 25 steps", "regressed student, 1 step", "trained student, 1 step")
    teacher, regressed, student = (columns[name] for name in names)
    assert teacher["repetition"] <= 0.01
    assert abs(teacher["sharpness"] - 1) <= 0.1
    assert abs(student["sharpness"] / teacher["sharpness"] - 1) <= 0.15
    assert student["repetition"] <= 0.02
    assert all(abs(student[name] - teacher[name]) <= 0.02 for name in FACTORS if name != "texture")
    assert regressed["texture"] < student["texture"] < teacher["texture"]
    assert student["FD"] < 0.8 * regressed["FD"]
    assert student["FD (random)"] < 0.1 * regressed["FD (random)"]
    assert student["told_apart"] < regressed["told_apart"] - 0.05
