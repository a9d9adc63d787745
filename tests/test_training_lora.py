"""A LoRA student that shares its UNet with the backbone: the gradients of two networks, with one in memory."""

import math

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from tiny_training import TINY, tiny
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab import load_pipeline
from nitro_lab.backbones import FrozenUNetEncoder
from nitro_lab.discriminators.losses import gradient_penalty
from nitro_lab.training.parts import Parts
from nitro_lab.training.run import TrainingRun
from nitro_lab.training.state import TrainState, prepare_training
from nitro_lab.training.step import training_step

LORA = {"student": "lora", "lora_rank": 4, "refresh_rate": 0.0, "max_grad_norm": math.inf, "learning_rate": 1e-3}


def prepare(tmp_path, parts=None, **settings) -> TrainState:
    return prepare_training(tiny(**LORA | settings), tmp_path, parts)


@torch.no_grad()
def gradients(state: TrainState) -> tuple[torch.Tensor, torch.Tensor]:
    """The student's gradient of one step, and the heads' first moments, with a LoRA that has an effect."""
    for parameter in state.trained if state.config.student == "lora" else ():
        parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        training_step(state, 0)
    moments = [state.pool.level_state(level)[1].flatten() for level in range(state.pool.shape[2])]
    return torch.cat([p.grad.flatten() for p in state.trained]), torch.cat(moments)


def test_shared_unet_gives_the_gradients_of_a_frozen_copy(tmp_path):
    shared = gradients(prepare(tmp_path / "shared"))
    start = load_pipeline(TINY.init_from).unet
    copied = gradients(prepare(tmp_path / "copied", Parts(backbone=lambda pipe: FrozenUNetEncoder(start))))
    assert all(map(torch.equal, shared, copied))
    assert shared[0].any()


@pytest.mark.parametrize("penalty", [None, gradient_penalty])
@pytest.mark.parametrize("settings", [{"student": "full", "learning_rate": 1e-5}, {"gradient_checkpointing": True}])
def test_view_by_view_gives_the_gradients_of_all_views_at_once(tmp_path, settings, penalty):
    """Checkpointing runs parts of the UNet again, with the LoRA in the state in which they ran first."""
    parts = Parts(regularizer=penalty)
    at_once = gradients(prepare(tmp_path / "at once", parts, **settings | {"gradient_checkpointing": False}))
    one_by_one = gradients(prepare(tmp_path / "one by one", parts, view_by_view=True, **settings))
    for expected, actual in zip(at_once, one_by_one, strict=True):
        assert torch.nn.functional.cosine_similarity(expected, actual, 0) > 1 - 1e-6
        assert actual.norm() == pytest.approx(expected.norm().item(), rel=1e-3)


def test_only_the_lora_is_trained_and_averaged(tmp_path):
    state = prepare(tmp_path, ema_decay=0.5)
    before = {name: value.clone() for name, value in state.student.state_dict().items()}
    for step in range(2):
        training_step(state, step)
    after = state.student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "lora_" in name}
    assert len(state.trained) == len(state.ema.module) == len(changed)
    trained = [p.clone() for p in state.trained]
    with state.averaged() as student:
        assert not any(map(torch.equal, trained, state.trained))
        assert student is state.student
    assert all(map(torch.equal, trained, state.trained))


def test_file_of_a_run_is_a_lora_of_diffusers(tmp_path):
    run = TrainingRun(tiny(**LORA), tmp_path)
    assert len(list(run.steps())) == 4
    assert not (tmp_path / "student.safetensors").exists()
    pipe = load_pipeline(TINY.init_from)
    pipe.load_lora_weights(tmp_path / "student_lora.safetensors")
    with run.state.averaged() as student:
        expected = {n: p.half().float() for n, p in student.named_parameters() if "lora_" in n}
    loaded = {n: p for n, p in pipe.unet.named_parameters() if "lora_" in n}
    assert len(loaded) == len(expected)
    assert all(map(torch.equal, loaded.values(), expected.values()))
    assert all(p.any() for p in loaded.values())
    assert isinstance(load_pipeline(tmp_path), StableDiffusionXLPipeline)


def test_layers_that_a_lora_cannot_find_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lora_targets.*nowhere"):
        prepare(tmp_path, lora_targets=("nowhere",))
