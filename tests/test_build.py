"""The miniature is built from nothing in any number of runs, with the same bits, and comes out as a loadable folder."""

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

from nitro_lab import exam
from nitro_lab.cards.miniature import draw_curves, table
from nitro_lab.cards.report import build_and_report
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.mini.build import STAGES, Miniature
from nitro_lab.mini.recipes import RECIPES
from nitro_lab.mini.teacher_cache import load_pairs
from nitro_lab.mini.train_regressed import train_regressed
from nitro_lab.mini.world import all_scenes

SMOKE = RECIPES["smoke"]
CUTS = (3, 17, 24, 21)  # reports after which a run dies: before the first snapshot, and in the middle of stages


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """A miniature of the smoke recipe, built in one go."""
    out = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exam, "user_cache_path", lambda name: out / "cache")
        build_and_report("smoke", out, "cpu", install=False)
    return out


def test_model_folder_loads_and_makes_an_image(built):
    model = built / "model"
    pipe = load_pipeline(model, unet=model / "regressed_unet.safetensors", shifted_timestep=250, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red star", num_inference_steps=1, guidance_scale=0).images[0]
    assert image.size == (64, 64)


def test_figures_and_card_are_written(built):
    figures = json.loads((built / "model" / "figures.json").read_text())
    assert {"autoencoder", "judge on renders", "renders", "teacher", "regressed student", "gap"} <= figures.keys()
    card = (built / "model" / "README.md").read_text()
    assert all(f"| {stage} |" in card for stage in STAGES)
    assert f"| seed | {SMOKE.seed} |" in card
    assert all((built / "model" / name).stat().st_size > 10_000 for name in ("curves.png", "samples.png"))


def test_a_recipe_may_go_on_with_the_soft_student_alone(tmp_path):
    recipe = replace(SMOKE, goes_on=True, vae_steps=0, judge_steps=0, teacher_steps=0)
    miniature = Miniature(recipe, tmp_path, torch.device("cpu"))
    start = deepcopy(miniature.student)
    assert {stage for stage, _ in miniature.train()} == {"cache", "regressed"}
    shipped = load_pipeline("mini-teacher", device="cpu")
    assert miniature.pipe.vae.config.scaling_factor == shipped.vae.config.scaling_factor
    assert apart(miniature.pipe.unet, shipped.unet) == 0
    assert 0 < apart(miniature.student, start) < apart(start, shipped.unet) / 2  # it did not begin anew as the teacher
    assert len(draw_curves(miniature).axes) == 1


def apart(module: torch.nn.Module, other: torch.nn.Module) -> float:
    """The largest difference of one weight."""
    pairs = zip(module.parameters(), other.parameters(), strict=True)
    return max((one.float() - two.float()).abs().max().item() for one, two in pairs)


def test_cut_and_resumed_gives_the_same_bits(built, tmp_path):
    for cut in CUTS:
        for reports, _ in enumerate(Miniature(SMOKE, tmp_path, torch.device("cpu")).train(), 1):
            if reports == cut:
                break
    resumed = Miniature(SMOKE, tmp_path, torch.device("cpu"))
    assert len(list(resumed.train())) > 0  # there was something left to do
    whole = Miniature(SMOKE, built, torch.device("cpu"))
    assert list(whole.train()) == []
    for part in ("student", "judge"):
        first, second = (getattr(miniature, part).state_dict() for miniature in (whole, resumed))
        assert all(torch.equal(first[key], second[key]) for key in first), part
    assert whole.pipe.vae.config.scaling_factor == resumed.pipe.vae.config.scaling_factor


def test_killed_in_three_stages_it_ends_as_if_it_had_not_been(built, tmp_path):
    command = [sys.executable, "-m", "nitro_lab", "build-mini", "--recipe", "smoke", "--out", str(tmp_path)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    for stage in ("judge", "cache", "regressed"):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while not (tmp_path / f"{stage}.safetensors").exists():
            assert child.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        child.kill()
        child.wait()
    assert not (tmp_path / "model").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for file in (built / "model").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "model" / file.relative_to(built / "model")).read_bytes(), file.name
    assert json.loads((built / "model" / "figures.json").read_text()) == json.loads(
        (tmp_path / "model" / "figures.json").read_text()
    )


def test_pairs_are_the_teachers_own(built):
    scenes, noise, x0 = load_pairs(built / "cache.safetensors", torch.device("cpu"))
    assert scenes.shape == (SMOKE.cache_pairs, 6)
    assert noise.shape == x0.shape == (SMOKE.cache_pairs, 4, 16, 16)
    assert x0.flatten(1).std(1).min() > 0


@pytest.mark.parametrize(("schedule", "times"), [(1, {249}), (4, {249, 187, 124, 62})])
def test_the_soft_student_learns_every_time_of_its_schedules(tmp_path, schedule, times):
    recipe = replace(SMOKE, regressed_schedule=schedule, regressed_steps=60, regressed_batch=2)
    pipe = load_pipeline("mini-teacher", device="cpu")
    noise, x0 = torch.randn(2, 2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    student, asked = deepcopy(pipe.unet).requires_grad_(), []
    student.register_forward_pre_hook(lambda _, inputs: asked.append((int(inputs[1]), inputs[0])))
    for _ in train_regressed(recipe, tmp_path / "student.safetensors", pipe, student, (all_scenes()[:2], noise, x0)):
        pass
    assert {told for told, _ in asked} == times
    for told, latents in asked:
        is_x_T = bool((latents.unsqueeze(1) == noise).flatten(2).all(2).any(1).all())
        assert is_x_T == (told == 249)


def test_other_settings_are_refused(built):
    other = Miniature(replace(SMOKE, vae_rate=1e-4), built, torch.device("cpu"))
    with pytest.raises(ValueError, match="vae_rate"):
        next(other.train())


def test_table_is_markdown():
    assert table(("a", "b"), {"x": 0.123456, "n": 3}) == "| a | b |\n| --- | --- |\n| x | 0.1235 |\n| n | 3 |\n"
