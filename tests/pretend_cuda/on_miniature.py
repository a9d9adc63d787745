"""The building of the miniature on a pretended GPU, at the smoke recipe's sizes and with fewer steps."""

import json
from dataclasses import replace

import torch
from tiny_training import tiny

from nitro_lab.models import load_pipeline
from nitro_lab.sampling import sample_image
from nitro_lab.training.run import TrainingRun
from tools.miniature import student_card
from tools.miniature.__main__ import build
from tools.miniature.recipes import RECIPES

STAGES = ("vae", "classifier", "teacher", "regressed")


def test_build(tmp_path, monkeypatch):
    steps = {f"{stage}_steps": 2 for stage in STAGES} | {"cache_num_inference_steps": 2, "eval_num_inference_steps": 2}
    monkeypatch.setitem(RECIPES, "smoke", replace(RECIPES["smoke"], checkpointing_steps=1, **steps))
    build("smoke", tmp_path, install=False)
    model = tmp_path / "model"
    assert "regressed student" in json.loads((model / "figures.json").read_text())
    assert torch.cuda.get_device_name() in (model / "README.md").read_text()
    pipe = load_pipeline(model, unet=model / "regressed_unet.safetensors", shifted_timestep=250)
    assert sample_image(pipe, "a red star", 0, 1)[0].size == (64, 64)


def test_install_a_student(tmp_path, monkeypatch):
    list(TrainingRun(tiny(max_train_steps=1, feature_indices=(3,)), tmp_path / "run").steps())
    for name, value in {"MODEL_FOLDER": tmp_path, "FEW_TEACHER_STEPS": (2,), "TEACHER_STEPS": 1}.items():
        monkeypatch.setattr(student_card, name, value)
    columns = student_card.install(tmp_path / "run", blend=0.5, num_images=12)
    assert columns["teacher, 1 step"]["told_apart"] == 0.5
    assert (tmp_path / "student_unet.safetensors").exists()
