"""Configs of the shifted scheduler: every option survives, to and from diffusers' schedulers, without a warning."""

import inspect
import logging
from collections.abc import Iterator

import pytest
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
)

from nitro_lab.scheduler import TimestepShiftLCMScheduler

OTHERS = [EulerDiscreteScheduler, DPMSolverMultistepScheduler, DDIMScheduler, DDPMScheduler, LCMScheduler]
UNUSUAL = {  # no value is a default, of this scheduler or of another
    "num_train_timesteps": 800,
    "beta_start": 0.0009,
    "beta_end": 0.013,
    "beta_schedule": "linear",
    "trained_betas": [0.01] * 800,
    "original_inference_steps": 8,
    "clip_sample": True,
    "clip_sample_range": 1.5,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.9,
    "sample_max_value": 2.0,
    "timestep_spacing": "trailing",
    "timestep_scaling": 5.0,
    "rescale_betas_zero_snr": True,
    "shifted_timestep": 123,
}


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What diffusers logs at the level of a warning or above."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def options(scheduler: SchedulerMixin) -> dict:
    return {name: scheduler.config[name] for name in UNUSUAL if name in scheduler.config}


def test_every_option_of_lcm_is_in_the_signature():
    ours, lcm = (
        {name: option.default for name, option in inspect.signature(cls.__init__).parameters.items()}
        for cls in (TimestepShiftLCMScheduler, LCMScheduler)
    )
    assert ours.keys() == lcm.keys() | {"shifted_timestep"} == UNUSUAL.keys() | {"self"}
    differing = {name for name in lcm if ours[name] != lcm[name]}
    assert differing == {"original_inference_steps"}


def test_from_config_carries_every_option(warnings):
    scheduler = TimestepShiftLCMScheduler.from_config(TimestepShiftLCMScheduler(**UNUSUAL).config)
    assert options(scheduler) == UNUSUAL
    assert len(scheduler.betas) == 800
    assert warnings == []


def test_options_beside_the_config_win(warnings):
    scheduler = TimestepShiftLCMScheduler.from_config(
        TimestepShiftLCMScheduler(**UNUSUAL).config, shifted_timestep=500, original_inference_steps=2
    )
    assert options(scheduler) == UNUSUAL | {"shifted_timestep": 500, "original_inference_steps": 2}
    assert warnings == []


def test_saving_and_loading_carries_every_option(warnings, tmp_path):
    TimestepShiftLCMScheduler(**UNUSUAL).save_pretrained(tmp_path)
    assert options(TimestepShiftLCMScheduler.from_pretrained(tmp_path)) == UNUSUAL
    changed = TimestepShiftLCMScheduler.from_pretrained(tmp_path, shifted_timestep=500)
    assert options(changed) == UNUSUAL | {"shifted_timestep": 500}
    assert warnings == []


@pytest.mark.parametrize("other", OTHERS, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("saved", [False, True], ids=["config", "file"])
def test_to_another_scheduler_and_back(other, saved, warnings, tmp_path):
    ours = TimestepShiftLCMScheduler(**UNUSUAL)
    ours.save_pretrained(tmp_path / "ours")
    theirs = other.from_pretrained(tmp_path / "ours") if saved else other.from_config(ours.config)
    known = UNUSUAL.keys() & inspect.signature(other.__init__).parameters
    assert {name: theirs.config[name] for name in known} == {name: UNUSUAL[name] for name in known}

    theirs.save_pretrained(tmp_path / "theirs")
    back = TimestepShiftLCMScheduler.from_pretrained(tmp_path / "theirs")
    again = TimestepShiftLCMScheduler.from_config(theirs.config)
    assert options(again) == options(back) == UNUSUAL
    assert warnings == []


@pytest.mark.parametrize("other", OTHERS, ids=lambda cls: cls.__name__)
def test_defaults_go_along_to_another_scheduler(other, warnings):
    """An option that nobody set is SDXL's all the same: the other scheduler's own default would be a wrong one."""
    theirs = other.from_config(TimestepShiftLCMScheduler().config)
    assert theirs.config.beta_start == 0.00085
    assert theirs.config.beta_schedule == "scaled_linear"
    assert warnings == []


@pytest.mark.parametrize("other", OTHERS, ids=lambda cls: cls.__name__)
def test_from_another_scheduler(other, warnings):
    theirs = other(beta_start=0.0009, beta_end=0.013, beta_schedule="linear", prediction_type="v_prediction")
    ours = TimestepShiftLCMScheduler.from_config(theirs.config, shifted_timestep=500)
    assert options(ours) == options(TimestepShiftLCMScheduler()) | {
        "beta_start": 0.0009,
        "beta_end": 0.013,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
        "shifted_timestep": 500,
    }
    assert warnings == []


def test_options_of_euler_that_lcm_does_not_know_are_reported_as_by_diffusers_itself(warnings):
    """LCM warns about what Euler left in a config, with our scheduler in between or not: nothing of ours is named."""
    euler = EulerDiscreteScheduler(use_karras_sigmas=True)
    LCMScheduler.from_config(euler.config)
    LCMScheduler.from_config(TimestepShiftLCMScheduler.from_config(euler.config).config)
    direct, between = warnings
    assert direct == between


def test_config_names_the_class():
    for scheduler in (
        TimestepShiftLCMScheduler(),
        TimestepShiftLCMScheduler.from_config(EulerDiscreteScheduler().config),
    ):
        assert scheduler.config["_class_name"] == "TimestepShiftLCMScheduler"
