"""Comparisons: equal starts, runs found and resumed, ideas from a notebook, failures, rows that come once."""

import csv
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_pool import MeanHead
from tiny_training import TINY

import nitro_lab.compare as compare_module
import nitro_lab.compare.run as compare_run
from nitro_lab.checkpoints import load_pipeline
from nitro_lab.compare import budget, compare
from nitro_lab.compare.ablation import MARKS, append_result, read_results
from nitro_lab.compare.cost import share_cores
from nitro_lab.compare.planning import BASE, plan
from nitro_lab.compare.run import finish, write
from nitro_lab.distill import train
from nitro_lab.exam import mark, set_exam, sit
from nitro_lab.ideas import Ideas
from nitro_lab.judging import draw_batch
from nitro_lab.mini.judge import load_judge
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.runs.folder import read_reports, run
from nitro_lab.studio import prepare

SHORT = {"seeds": 1, "steps": 2, "images": 12, "config": TINY}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # other processes see it too
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, private_cache):
    folder = tmp_path_factory.mktemp("compared")
    changes = {"full": {}, "mine": MeanHead, "same": {"slots": TINY.slots}}
    return {result.variant: result for result in compare(changes, **SHORT, folder=folder, jobs=1)}, folder


def test_each_variant_comes_once_and_equal_ones_are_one_run(compared):
    results, folder = compared
    assert set(results) == {"full", "mine", "same"}
    assert results["full"].key == results["same"].key
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2


def test_a_result_is_what_its_student_gets_in_the_exam(compared):
    result = compared[0]["mine"]
    folder = result.grid.parent
    pipe = load_pipeline("mini-regressed", unet=folder / "student.safetensors")
    exam = set_exam(load_pipeline("mini-teacher"), load_judge(), images=12)
    assert result.marks == pytest.approx(mark(exam, sit(exam, pipe, 1)))
    reports = read_reports(folder)
    assert result.margin == pytest.approx(reports["margin"][-1])  # a quarter of two steps is one
    assert result.seconds == pytest.approx(reports["seconds"][-1])
    assert result.parameters == 4 * 3 * 2 * sum(channels + 1 for channels in (64,) * 4 + (80,) * 3 + (96,) * 3)
    assert result.memory > 100
    assert result.captions == exam.prompts[:8]
    assert result.grid.read_bytes()[1:4] == b"PNG"
    assert not (folder / "checkpoint.safetensors").exists()


def test_finished_runs_are_found_and_nothing_is_trained(compared, monkeypatch, capsys):
    results, folder = compared
    monkeypatch.setattr(compare_module, "finish", None)
    again = list(compare({"other name": {}, "mine": MeanHead}, **SHORT, folder=folder))
    assert capsys.readouterr().out == "No run is left (2 found on disk).\n"
    assert [replace(result, variant="full") for result in again[:1]] == [results["full"]]
    assert again[1] == results["mine"]


def test_variants_with_other_pools_see_the_same_data(tmp_path):
    changes = {"a": {}, "b": {"slots": 1, "head": MeanHead, "refresh": 0.5}}
    batches, parts = [], ("reals", "x_T", "real_noise", "fake_noise")
    for asked in plan(changes, folder=tmp_path, **SHORT):
        training = prepare(asked.config, asked.folder, asked.ideas)
        next(train(training))
        batches.append(draw_batch(training))
    assert all(torch.equal(getattr(batches[0], part), getattr(batches[1], part)) for part in parts)


def test_a_cut_run_goes_on_and_ends_as_the_uncut_one(compared, tmp_path):
    uncut = compared[0]["mine"]
    (asked,) = plan({"mine": MeanHead}, folder=tmp_path, **SHORT)
    assert asked.key == uncut.key
    with closing(run(asked.config, asked.folder, asked.ideas)) as reports:
        next(reports)
    result = finish(asked, share_cores(1, 1)[1])  # as many threads as the uncut one had
    assert result.marks == uncut.marks
    weights = [load_file(grid.with_name("student.safetensors")) for grid in (result.grid, uncut.grid)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_other_code_of_an_idea_cannot_go_on_with_a_checkpoint(tmp_path):
    with closing(run(TINY, tmp_path, Ideas(head=MeanHead))) as reports:
        next(reports)
    with pytest.raises(ValueError, match=r"code of head: saved '.*', now None"):
        next(run(TINY, tmp_path))


def test_a_run_that_fails_is_a_result(tmp_path):
    broken = replace(OBJECTIVES["hinge"], critic=lambda real, fake: real.mean() * float("nan"))
    (result,) = compare({"broken": Ideas(objective=broken)}, **SHORT, folder=tmp_path, jobs=1)
    assert result.failed.startswith("Step 1: critic loss nan")
    assert result.marks == {}
    (again,) = compare({"broken": Ideas(objective=broken)}, **SHORT, folder=tmp_path)
    assert again.failed == result.failed


def test_two_that_want_the_same_run_make_it_once(compared, tmp_path, monkeypatch):
    (asked,) = plan({"mine": MeanHead}, folder=tmp_path, **SHORT)
    made = []

    def slowly(run):
        made.append(run)
        time.sleep(0.3)
        write(compared[0]["mine"], run.folder)
        return run.found()

    monkeypatch.setattr(compare_run, "train_and_examine", slowly)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(finish, [asked, asked])
    assert first == second
    assert len(made) == 1


def test_the_budget_counts_what_is_left_and_times_a_step(compared):
    told = budget({"full": {}, "mine": MeanHead, "new": {"slots": 3}}, **(SHORT | {"steps": 2}), folder=compared[1])
    assert (told.found, told.left, told.timed) == (2, 1, "new")
    assert told.seconds == pytest.approx(told.overhead + 2 * told.step)
    assert told.jobs * told.threads >= 1
    assert "fewer seeds, steps, variants or images" in str(told)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"changes": {}}, "changes is empty; give {name: change}"),
        ({"changes": {"a": {"slot": 2}}}, "Variant 'a' changes slot; a change may name settings"),
        ({"changes": {"a": {"seed": 2}}}, "Variant 'a' changes seed; .* arguments of compare"),
        ({"changes": {"a": {"slots": 0}}}, "Variant 'a': slots is 0; it must be at least 1"),
        ({"changes": {"a": 3}}, "Variant 'a': head is 3; give a class"),
        ({"changes": {"a": {}}, "seeds": 0}, "seeds is 0; give how many, at least 1"),
        ({"changes": {"a": {}}, "images": 5}, "images is 5; the distances need at least 10"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(given, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        compare(**(SHORT | given), folder=tmp_path)


def test_rows_of_the_ablation_come_once(compared, tmp_path):
    table = tmp_path / "table.csv"
    for result in [*compared[0].values(), *compared[0].values()]:
        append_result(result, table)
    assert len(table.read_text().splitlines()) == 4
    there = [(result.variant, result.key) for result in read_results(table)]
    assert there == [(name, result.key) for name, result in compared[0].items()]


def load_ablation():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("ablation", ROOT / "benchmarks" / "ablation.py")
    ablation = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ablation)
    return ablation


def test_no_two_variants_of_the_ablation_are_the_same(tmp_path):
    ablation = load_ablation()
    runs = plan(ablation.VARIANTS, folder=tmp_path, **SHORT | {"config": ablation.CONFIG})
    assert len({run.key for run in runs}) == len(ablation.VARIANTS)


def test_means_of_the_ablation_are_those_of_its_rows(compared, tmp_path, monkeypatch):
    ablation = load_ablation()
    files = {"FOLDER": tmp_path, "TABLE": tmp_path / "rows.csv", "MEANS": tmp_path / "means.csv"}
    for name, path in (files | {"PAGE": tmp_path / "page.html", "GRIDS": tmp_path / "grids.png"}).items():
        monkeypatch.setattr(ablation, name, path)
    changes = {"full": {}, "no refresh": {"refresh": 0.0}}
    runs = plan(changes, folder=tmp_path, **SHORT | {"config": BASE, "seeds": 2})
    ablation.write_means(runs)
    assert not ablation.MEANS.exists()  # nothing to compare with
    values = {"full": (0.5, 0.7), "no refresh": (0.25, 0.65)}
    for asked in reversed(runs):
        seed, place = asked.config.seed, {"variant": asked.variant, "key": asked.key}
        marks = dict.fromkeys(MARKS, 0.0) | {"all": values[asked.variant][seed]}
        append_result(replace(compared[0]["full"], seed=seed, marks=marks, **place), ablation.TABLE)
    append_result(replace(compared[0]["full"], key="of other weights"), ablation.TABLE)
    ablation.write_means(runs)
    with ablation.MEANS.open(newline="") as file:
        full, other = csv.DictReader(file)
    assert (full["variant"], other["variant"], other["seeds"]) == ("full", "no refresh", "2")
    assert (float(full["all"]), float(other["all difference"])) == pytest.approx((0.6, -0.15))
    assert float(other["all difference ±"]) == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree, by table
    assert "no refresh" in ablation.PAGE.read_text()
