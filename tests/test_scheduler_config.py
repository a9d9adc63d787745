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


def test_a_config_and_a_file_carry_every_option(warnings, tmp_path):
    scheduler = TimestepShiftLCMScheduler(**UNUSUAL)
    scheduler.save_pretrained(tmp_path)
    changes = {"shifted_timestep": 500, "original_inference_steps": 2}
    sources = {TimestepShiftLCMScheduler.from_config: scheduler.config}
    sources[TimestepShiftLCMScheduler.from_pretrained] = tmp_path
    for make, source in sources.items():
        assert options(make(source)) == UNUSUAL
        assert options(make(source, **changes)) == UNUSUAL | changes
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
def test_defaults_of_two_schedulers_do_not_mix(other, warnings):
    """SDXL's values go along to another scheduler; what another one does not set, ours fills with its own."""
    default = TimestepShiftLCMScheduler()
    assert other.from_config(default.config).config.beta_schedule == "scaled_linear"
    given = {"beta_start": 0.0009, "beta_end": 0.013, "beta_schedule": "linear", "prediction_type": "v_prediction"}
    ours = TimestepShiftLCMScheduler.from_config(other(**given).config, shifted_timestep=500)
    assert options(ours) == options(default) | given | {"shifted_timestep": 500}
    assert ours.config["_class_name"] == default.config["_class_name"] == "TimestepShiftLCMScheduler"
    assert warnings == []


def test_a_loaded_config_is_the_saved_one(tmp_path):
    """As diffusers' own tests of schedulers have it."""
    scheduler = TimestepShiftLCMScheduler(shifted_timestep=500)
    scheduler.save_pretrained(tmp_path)
    config = dict(scheduler.config)
    del config["_use_default_values"]
    assert config == TimestepShiftLCMScheduler.from_pretrained(tmp_path).config
