"""The miniature is built from scratch, with the same bits however often it is killed, as a loadable folder."""

import json
import os
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from nitro_lab.evaluation import eval_set
from nitro_lab.mini.world import all_scenes
from nitro_lab.models import load_pipeline
from nitro_lab.sampling import sample_image
from tools.miniature.__main__ import build
from tools.miniature.build import Miniature
from tools.miniature.recipes import RECIPES
from tools.miniature.stages import train_regressed
from tools.miniature.teacher_cache import load_pairs

SMOKE = RECIPES["smoke"]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A miniature of the smoke recipe, built without interruption."""
    out = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval_set, "user_cache_path", lambda name: out / "cache")
        build("smoke", out, "cpu", install=False)
    return out


def test_model_folder_loads_and_has_its_figures(built):
    model = built / "model"
    pipe = load_pipeline(model, unet=model / "regressed_unet.safetensors", shifted_timestep=250, device="cpu")
    image, _ = sample_image(pipe, "a red star", 0, 1)
    assert image.size == (64, 64)
    figures = json.loads((model / "figures.json").read_text())
    assert {"autoencoder", "classifier on renders", "renders", "teacher", "regressed student"} <= figures.keys()
    scenes, noise, x0 = load_pairs(built / "cache.safetensors", CPU)
    assert scenes.shape == (SMOKE.cache_pairs, 6)
    assert noise.shape == x0.shape == (SMOKE.cache_pairs, 4, 16, 16)


def test_a_recipe_can_continue_with_the_student_alone(tmp_path):
    recipe = replace(SMOKE, from_installed=True, vae_steps=0, classifier_steps=0, teacher_steps=0)
    miniature = Miniature(recipe, tmp_path, CPU)
    start = parameters_to_vector(miniature.student.parameters())
    assert {stage for stage, _ in miniature.train()} == {"cache", "regressed"}
    shipped = load_pipeline("mini-teacher", device="cpu")
    teacher = parameters_to_vector(shipped.unet.parameters())
    assert torch.equal(parameters_to_vector(miniature.pipe.unet.parameters()), teacher)
    moved = (parameters_to_vector(miniature.student.parameters()) - start).abs().max()
    assert 0 < moved < (start - teacher).abs().max() / 2  # it did not start again as a copy of the teacher


def test_killed_in_three_stages_it_ends_with_the_same_files(built, tmp_path):
    command = [sys.executable, "-m", "tools.miniature", "build", "--recipe", "smoke", "--out", str(tmp_path)]
    options = {"env": os.environ | {"CUDA_VISIBLE_DEVICES": ""}, "cwd": Path(__file__).parents[1]}
    for stage in ("classifier", "cache", "regressed"):
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
        while not (tmp_path / f"{stage}.safetensors").exists():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        child.kill()
        child.wait()
    assert not (tmp_path / "model").exists()
    subprocess.run(command, check=True, capture_output=True, **options)
    for file in [*(built / "model").rglob("*.safetensors"), built / "model" / "figures.json"]:
        assert file.read_bytes() == (tmp_path / "model" / file.relative_to(built / "model")).read_bytes(), file.name


@pytest.mark.parametrize(("max_steps", "expected"), [(1, {249}), (4, {249, 187, 124, 62})])
def test_regressed_student_is_trained_at_every_timestep_of_its_schedules(tmp_path, max_steps, expected):
    recipe = replace(SMOKE, regressed_max_steps=max_steps, regressed_steps=60, regressed_batch_size=2)
    pipe = load_pipeline("mini-teacher", device="cpu")
    noise, x0 = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    student, calls = deepcopy(pipe.unet).requires_grad_(), []
    student.register_forward_pre_hook(lambda _, inputs: calls.append((int(inputs[1][0]), inputs[0])))
    for _ in train_regressed(recipe, tmp_path / "student.safetensors", pipe, student, (all_scenes()[:2], noise, x0)):
        pass
    assert {timestep for timestep, _ in calls} == expected
    for timestep, latents in calls:
        is_x_T = bool((latents.unsqueeze(1) == noise).flatten(2).all(2).any(1).all())
        assert is_x_T == (timestep == 249)


def test_a_finished_build_trains_no_more_and_refuses_other_settings(built):
    assert list(Miniature(SMOKE, built, CPU).train()) == []
    other = Miniature(replace(SMOKE, vae_learning_rate=1e-4), built, CPU)
    with pytest.raises(ValueError, match="vae_learning_rate"):
        next(other.train())
