"""The exam asks what it should, and its marks mean what they say."""

import json
import re
from dataclasses import replace

import pytest
import torch

import nitro_lab.exam as exams
from nitro_lab.__main__ import main
from nitro_lab.exam import choose_scenes, fresh_renders, mark, set_exam, sit, sit_once
from nitro_lab.marks import Columns, print_table, words, write_table
from nitro_lab.mini.judge import Judge
from nitro_lab.mini.world import split_scenes
from nitro_lab.randomness import seeded


@pytest.fixture
def exam(untrained_pipeline):
    return set_exam(untrained_pipeline, seeded(0, Judge).eval(), "held-out", images=24, seed=5)


def rows(scenes: torch.Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, scenes.tolist()))


def test_held_out_captions_each_once(exam):
    assert len(rows(exam.scenes)) == 24
    assert rows(exam.scenes) <= rows(split_scenes()[1])
    assert len(exam.prompts) == len(exam.noise) == len(exam.reference) == 24


def test_captions_come_again_only_when_all_have_come(untrained_pipeline, monkeypatch):
    few = split_scenes()[1][:7]
    monkeypatch.setattr("nitro_lab.exam.choose_scenes", lambda captions: few)
    scenes = set_exam(untrained_pipeline, seeded(0, Judge).eval(), images=14).scenes
    assert rows(scenes[:7]) == rows(scenes[7:]) == rows(few)


def test_same_seed_same_exam(exam, untrained_pipeline):
    again = set_exam(untrained_pipeline, exam.judge, "held-out", images=24, seed=5)
    assert torch.equal(again.noise, exam.noise)
    assert torch.equal(again.reference, exam.reference)


def test_unknown_caption_set_is_refused():
    with pytest.raises(ValueError, match="held-out, training, all"):
        choose_scenes("unseen")


def test_fresh_renders_are_other_pictures_of_the_same_sharpness(exam, untrained_pipeline):
    images = fresh_renders(exam, untrained_pipeline)
    assert not torch.equal(exam.judge.look(images).features, exam.reference)
    assert mark(exam, images)["sharpness"] == pytest.approx(1, abs=0.2)


def test_table_shows_every_mark_with_intervals(exam, untrained_pipeline, capsys, tmp_path):
    columns: Columns = {"renders": mark(exam, fresh_renders(exam, untrained_pipeline))}
    print_table(columns, images=24)
    printed = capsys.readouterr().out
    assert all(name in printed for name in columns["renders"])
    write_table(columns, tmp_path / "deep" / "marks.json")
    assert json.loads((tmp_path / "deep" / "marks.json").read_text()) == columns


@pytest.mark.parametrize("title", ["a", "a student with a very long name, 1 step"])
def test_columns_are_as_wide_as_their_widest_cell(title, capsys):
    print_table({title: {"all": 1.0, "KID": 0.5}, "b": {"all": 0.125, "KID": 0.25}}, images=1000)
    lines = capsys.readouterr().out.splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert cells == [
        [title, "b"],
        ["all", "100.0 % [99.6, 100.0]", "12.5 % [10.6, 14.7]"],
        ["KID", "0.5000", "0.2500"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_words():
    assert words("all", 0.973, 1000) == "97.3 % [96.1, 98.1]"
    assert words("repetition", 0.0, 100) == "0.0 % [0.0, 3.7]"
    assert words("recall", 0.9, 100) == "90.0 %"
    assert words("KID", 0.01234, 100) == "0.0123"


def test_what_sat_an_exam_once_is_read_from_disk(untrained_pipeline, exam, monkeypatch, tmp_path):
    monkeypatch.setattr(exams, "user_cache_path", lambda name: tmp_path)
    drawn = sit(exam, untrained_pipeline, 1, guidance=3)
    assert torch.equal(sit_once(exam, untrained_pipeline, 1, 3, "once"), drawn)
    sit_once(exam, untrained_pipeline, 1, 2, "once")
    sit_once(replace(exam, noise=-exam.noise), untrained_pipeline, 1, 3, "once")
    assert len(list(tmp_path.glob("exam-*.safetensors"))) == 3
    monkeypatch.setattr(exams, "generate", None)  # whoever sits again would fail
    assert torch.equal(sit_once(exam, untrained_pipeline, 1, 3, "once"), drawn)


def test_command_line_evaluates_the_miniature(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(exams, "user_cache_path", lambda name: tmp_path)
    file = tmp_path / "marks.json"
    assert main(["evaluate", "mini", "--images", "12", "--steps", "1", "2", "--json", str(file)]) == 0
    assert list(json.loads(file.read_text())) == ["renders", "teacher, 25 steps", "mini, 1 step", "mini, 2 steps"]
    assert "repetition" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "mini", "--captions", "unseen"], "held-out, training, all"),
        (["evaluate", "mini", "--images", "3"], "at least 10"),
        (["evaluate", "minni"], "mini-teacher"),
        (["evaluate", "mini", "--shift", "0"], "shifted_timestep is 0"),
        (["evaluate", "mini", "--steps", "9"], "num_inference_steps is 9"),
    ],
)
def test_bad_input_gets_one_line(arguments, said, capsys):
    assert main(arguments) == 1
    last_line = capsys.readouterr().err.splitlines()[-1]  # after the bars of what was loaded
    assert last_line.startswith("nitro-lab: ")
    assert said in last_line
