"""The evaluation set and the table of models."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nitro_lab.cli import main
from nitro_lab.evaluation import eval_set as evaluation
from nitro_lab.evaluation import table
from nitro_lab.evaluation.eval_set import (
    EvalSet,
    compute_metrics,
    make_eval_set,
    render_again,
    sample_eval_set,
    with_teacher,
)
from nitro_lab.evaluation.table import format_table
from nitro_lab.mini.classifier import SceneClassifier
from nitro_lab.mini.world import split_scenes
from nitro_lab.randomness import seeded
from nitro_lab.weights import CheckpointError


@pytest.fixture
def eval_set(untrained_pipeline) -> EvalSet:
    return make_eval_set(untrained_pipeline, seeded(0, SceneClassifier).eval(), num_images=24, seed=5)


def rows(scenes: torch.Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, scenes.tolist()))


def test_held_out_captions_come_once_and_follow_the_seed(eval_set, untrained_pipeline):
    again = make_eval_set(untrained_pipeline, eval_set.classifier, num_images=24, seed=5)
    assert torch.equal(again.x_T, eval_set.x_T)
    assert torch.equal(again.reference_features, eval_set.reference_features)
    assert len(rows(eval_set.scenes)) == 24
    assert rows(eval_set.scenes) <= rows(split_scenes()[1])
    assert len(eval_set.prompts) == len(eval_set.x_T) == len(eval_set.reference_features) == 24


def test_captions_are_repeated_only_after_all_have_come(untrained_pipeline, monkeypatch):
    few = split_scenes()[1][:7]
    monkeypatch.setattr(evaluation, "split_scenes", lambda: (few, few))
    scenes = make_eval_set(untrained_pipeline, seeded(0, SceneClassifier).eval(), num_images=14).scenes
    assert rows(scenes[:7]) == rows(scenes[7:]) == rows(few)
    with pytest.raises(ValueError, match=r"captions.*unseen.*held-out, training, all"):
        make_eval_set(untrained_pipeline, seeded(0, SceneClassifier), captions="unseen")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_new_renders_differ_but_are_as_sharp_and_broken_ones_have_no_metrics(eval_set, untrained_pipeline, bad):
    images = render_again(eval_set, untrained_pipeline)
    assert not torch.equal(eval_set.classifier.predict(images).features, eval_set.reference_features)
    metrics = compute_metrics(eval_set, images)
    assert metrics["sharpness"] == pytest.approx(1, abs=0.2)
    images[3, 0, 5, 5] = bad
    broken = compute_metrics(eval_set, images)
    assert list(broken) == list(metrics)
    assert all(math.isnan(value) for value in broken.values())


def test_told_apart_comes_first_where_the_teacher_is_known(eval_set, untrained_pipeline, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "user_cache_path", lambda name: tmp_path)
    monkeypatch.setattr(evaluation, "TEACHER_STEPS", 1)
    renders = render_again(eval_set, untrained_pipeline)
    assert "told_apart" not in compute_metrics(eval_set, renders)
    known = with_teacher(eval_set, untrained_pipeline)
    assert list(compute_metrics(known, renders))[:2] == ["told_apart", "told_apart_half"]
    assert compute_metrics(known, known.teacher_images)["told_apart"] == 0.5
    assert math.isnan(compute_metrics(known, renders * math.nan)["told_apart"])


def test_table_has_intervals():
    column = {"told_apart": 0.657, "told_apart_half": 0.021, "all": 0.973, "repetition": 0.0, "FD": 0.1234}
    lines = format_table({"a": column, "b": {"all": math.nan}}, num_images=1000).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["told_apart", "all", "FD"]  # no repetition: it is zero for all
    cells = ["65.7 % ± 2.1", "97.3 % [96.1, 98.1]", "0.12"]
    assert all(cell in line and line.endswith("–") for cell, line in zip(cells, lines, strict=True))


def test_cached_samples_are_read_from_disk(untrained_pipeline, eval_set, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation, "user_cache_path", lambda name: tmp_path)
    cached = evaluation.sample_eval_set_cached
    images = sample_eval_set(eval_set, untrained_pipeline, 1, guidance_scale=3)
    assert torch.equal(cached(eval_set, untrained_pipeline, 1, 3), images)
    cached(eval_set, untrained_pipeline, 1, 2)
    cached(replace(eval_set, x_T=-eval_set.x_T), untrained_pipeline, 1, 3)
    assert len(list(tmp_path.glob("eval-*.safetensors"))) == 3
    monkeypatch.setattr(evaluation, "sample_latents", None)
    assert torch.equal(cached(eval_set, untrained_pipeline, np.int64(1), 3), images)
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match=r"eval-.*\.safetensors.*Delete"):
        cached(eval_set, untrained_pipeline, 1, 3)


def test_command_line_evaluates_the_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "user_cache_path", lambda name: tmp_path)
    monkeypatch.setattr(table, "FEW_TEACHER_STEPS", (2,))
    file = tmp_path / "deep" / "table.json"
    assert main(["evaluate", "mini", "--num-images", "12", "--steps", "1", "2", "--json", str(file)]) == 0
    titles = ["renders", "teacher, 2 steps", "teacher, 25 steps", "mini, 1 step", "mini, 2 steps"]
    columns = json.loads(file.read_text())
    assert list(columns) == titles
    assert all(next(iter(column)) == "told_apart" for column in columns.values())


def test_wrong_arguments_give_one_line(capsys):
    cases = {"mini --num-images 3": "num_images is 3", "minni": "minni", "mini --steps 9": "num_inference_steps is 9"}
    for arguments, named in cases.items():
        assert main(["evaluate", *arguments.split()]) == 1
        assert named in capsys.readouterr().err.splitlines()[-1]  # after progress bars
