"""The command line of training: every setting is an option, and what is given arrives as it should."""

import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from nitro_lab.__main__ import main, make_parser
from nitro_lab.distill_config import DistillConfig
from nitro_lab.training_verbs import config_of


def parse(*words: str) -> DistillConfig:
    return config_of(make_parser().parse_args(["train", *words]))


def test_without_options_the_defaults_hold():
    assert parse() == DistillConfig()
    assert make_parser().parse_args(["train"]).out == Path("build/distill")


def test_every_setting_arrives_with_its_type():
    given = {
        "teacher": "a",
        "student": "b",
        "prompts": "c.txt",
        "objective": "linear",
        "mixed_precision": "bf16",
        "compile": True,
        "t_star": (10, 250, 500),
        "views": ("local conditional", "global unconditional"),
        "vectorize": False,
        "levels": (0, 9),
        "stages": (1, 3),
        "step_law": "last step",
        "one_step_share": 0.5,
        "rollout_gradient": True,
        "refresh_clears": False,
        "separate_chance": True,
        "shared_noise": False,
        "student_betas": (0.0, 0.9),
        "critic_betas": (0.25, 0.75),
        "refresh": 0.5,
        "ema": 0.5,
        "student_rate": 2e-5,
        "critic_rate": 2e-3,
        "clip": 2.5,
        "teacher_guidance": 1.5,
    }
    whole = {f.name: getattr(DistillConfig(), f.name) + 4 for f in fields(DistillConfig) if f.name not in given}
    whole |= {"batch_size": 20, "accumulation": 5}
    words: list[str] = []
    for name, value in (given | whole).items():
        option = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, tuple) else (value,)
        words += [option if value else f"--no{option[1:]}"] if isinstance(value, bool) else [option, *map(str, values)]
    config = parse(*words)
    assert asdict(config) == given | whole
    assert {type(getattr(config, f.name)) for f in fields(config)} == {str, int, float, bool, tuple}


def test_help_tells_the_meaning_and_default_of_every_setting(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for setting in fields(DistillConfig):
        assert f" --{setting.name.replace('_', '-')}" in words
        assert setting.metadata["meaning"] in words
    assert "noise levels at which critics look [F] (default: 10 250 500 750)" in words


def test_switches_can_be_turned_off():
    assert parse("--compile", "--no-compile").compile is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective", "wasserstein"], "linear, hinge, non-saturating"),
        (["--t-star", "10", "1000"], "from 0 to 999"),
        (["--per-cell", "9"], "at most 4"),
    ],
)
def test_bad_settings_get_one_line(words, said, capsys):
    assert main(["train", *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nitro-lab: ")
    assert said in line


@pytest.mark.parametrize("words", [["--steps", "many"], ["--t-star"], ["--unknown"]])
def test_words_that_are_no_options_show_the_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", *words])
    assert stopped.value.code == 2
    assert "usage: nitro-lab" in capsys.readouterr().err


def test_other_verbs_do_not_wait_for_torch():
    code = (
        "import sys; from nitro_lab.__main__ import make_parser; make_parser().parse_args(['sample', 'mini', 'a']);"
        "assert not {'torch', 'diffusers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
