"""Comparisons: equal starts, runs that are found and resumed, heads of notebooks, failures, the ablation script."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_pool import MeanHead
from tiny_training import TINY

from benchmarks import ablation
from nitro_lab.discriminators import losses
from nitro_lab.discriminators.losses import GAN_LOSSES, GANLoss
from nitro_lab.evaluation.eval_set import compute_metrics, make_eval_set, sample_eval_set, with_teacher
from nitro_lab.experiments import compare as module
from nitro_lab.experiments.compare import Result, compare, execute, finish, plan
from nitro_lab.mini.classifier import load_scene_classifier
from nitro_lab.models import load_pipeline
from nitro_lab.training.batch import sample_batch
from nitro_lab.training.config import DistillConfig
from nitro_lab.training.parts import Parts
from nitro_lab.training.run import TrainingRun, read_reports
from nitro_lab.training.state import prepare_training
from nitro_lab.training.step import training_step

SHORT = {"seeds": 1, "steps": 2, "num_images": 12, "config": TINY}
NUM_PARAMETERS = 4 * 3 * 2 * sum(channels + 1 for channels in (64,) * 4 + (80,) * 3 + (96,) * 3)  # of mean heads


def planned(variants, folder, **options):
    return plan(variants, folder=folder, **SHORT | options)


@pytest.fixture(scope="module", autouse=True)
def private_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))  # other processes see it, too
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory, private_cache):
    """Results by variant, and their folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("compared")
    variants = {"full": {}, "mine": MeanHead, "same": {"heads_per_cell": TINY.heads_per_cell}}
    return {result.variant: result for result in compare(variants, **SHORT, folder=folder, jobs=1)}, folder


def test_a_result_is_that_of_its_student(compared):
    result = compared[0]["mine"]
    folder = result.grid.parent
    pipe = load_pipeline("mini-regressed", unet=folder / "student.safetensors")
    teacher = load_pipeline("mini-teacher")
    eval_set = with_teacher(make_eval_set(teacher, load_scene_classifier(), num_images=12), teacher)
    images = sample_eval_set(eval_set, pipe, 1)
    assert result.metrics == pytest.approx(compute_metrics(eval_set, images))
    assert result.captions == eval_set.prompts[:8]
    grid = np.asarray(Image.open(result.grid), dtype=float)
    assert grid[:, 64:128] == pytest.approx(255 * (images[1].clamp(-1, 1) / 2 + 0.5).permute(1, 2, 0).numpy(), abs=1)
    last = read_reports(folder).iloc[-1]
    assert (result.logit_gap, result.seconds) == pytest.approx((last["logit_gap"], last["seconds"]))
    assert not (folder / "checkpoint.safetensors").exists()


def test_equal_runs_are_shared_and_finished_ones_found_and_not_trained(compared, monkeypatch, capsys):
    results, folder = compared
    assert results["full"] == replace(results["same"], variant="full")
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    monkeypatch.setattr(module, "finish", None)
    again = compare({"other name": {}, "mine": MeanHead}, **SHORT, folder=folder)
    assert {result.reference for result in results.values()} == {"full"}
    expected = [replace(results["full"], variant="other name"), results["mine"]]
    assert list(again) == [replace(result, reference="other name") for result in expected]
    assert "disk: 2. To train: 0" in capsys.readouterr().out


def test_other_runs_have_other_keys(tmp_path):
    other_head = {"variants": {"mine": lambda channels: MeanHead(channels)}}
    other_rate = {"variants": {"mine": {"head": MeanHead, "disc_learning_rate": 1e-3}}}
    changes = [{}, other_head, other_rate, {"steps": 3}, {"num_images": 13}, {"seeds": [1]}]
    runs = [planned(**{"variants": {"mine": MeanHead}} | change, folder=tmp_path)[0] for change in changes]
    assert len({run.key for run in runs}) == len(changes)


def test_variants_with_other_pools_see_the_same_data(tmp_path):
    batches, names = [], ("real_x0", "x_T", "real_noise", "fake_noise")
    for run in planned({"a": {}, "b": {"heads_per_cell": 1, "head": MeanHead, "refresh_rate": 0.5}}, tmp_path):
        state = prepare_training(run.config, run.folder, run.parts)
        training_step(state, 0)
        batches.append(sample_batch(state))
    assert all(torch.equal(getattr(batches[0], name), getattr(batches[1], name)) for name in names)


def test_an_interrupted_run_ends_as_the_uninterrupted_one(compared, tmp_path):
    whole = compared[0]["mine"]
    (run,) = planned({"mine": MeanHead}, tmp_path)
    assert run.key == whole.key
    with closing(TrainingRun(run.config, run.folder, run.parts).steps()) as reports:
        next(reports)
    result = finish(run)
    assert result.metrics == whole.metrics
    first, second = (load_file(grid.with_name("student.safetensors")) for grid in (result.grid, whole.grid))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_failed_run_is_a_result_and_a_damaged_result_is_named(tmp_path):
    broken = GANLoss(lambda real, fake: real.mean() * float("nan"), GAN_LOSSES["hinge"].generator)
    variants = {"broken": Parts(gan_loss=broken)}
    (result,) = compare(variants, **SHORT, folder=tmp_path, jobs=1)
    assert re.search("Step 1.*nan", result.failed)
    assert result.metrics == {}
    (run,) = planned(variants, tmp_path)
    assert run.find().failed == result.failed
    (run.folder / "result.json").write_text('{"seed"')
    with pytest.raises(ValueError, match=r"result\.json"):
        run.find()


def test_a_run_is_made_by_one_process_at_a_time(compared, tmp_path, monkeypatch):
    (run,) = planned({"mine": MeanHead}, tmp_path)
    made = []

    def slowly(run) -> Result:
        made.append(run)
        time.sleep(0.3)
        (run.folder / "result.json").write_bytes(compared[0]["mine"].grid.with_name("result.json").read_bytes())
        return run.find()

    monkeypatch.setattr(module, "_train_and_evaluate", slowly)
    with ThreadPoolExecutor() as pool:
        list(pool.map(finish, [run, run]))
    assert made == [run]


def test_heads_defined_in_a_function_reach_other_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_estimate", lambda runs, jobs: "")

    class Mine(MeanHead):
        pass

    runs = planned({"mine": Mine, "mid": {"head": Mine, "feature_indices": (9,)}}, tmp_path, steps=1)
    results = {result.variant: result.num_parameters for result in execute(runs, jobs=2)}
    assert results == {"mine": NUM_PARAMETERS, "mid": 4 * 3 * 2 * 97}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"variants": {"a": {"slot": 2}}}, "'a'.*slot"),
        ({"variants": {"a": {"haed_width": 8}}}, "'a'.*haed_width.*head_width"),
        ({"variants": {"a": {"seed": 2}}}, "'a'.*seed"),
        ({"variants": {"a": {}}, "seeds": True}, "seeds is True"),
        ({"variants": {"a": {"heads_per_cell": 0}}}, "'a'.*heads_per_cell.*0"),
        ({"variants": {"a": 3}}, "'a'.*head.*3"),
        ({"variants": {"a": {}}, "seeds": 0}, r"range\(0, 0\)"),
        ({"variants": {"a": {}}, "num_images": 5}, "num_images.*5"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(given, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        compare(**(SHORT | given), folder=tmp_path)


def test_rows_of_the_ablation_are_added_once_and_its_means_are_those_of_its_rows(compared, tmp_path):
    study = replace(ablation.STUDY, table=tmp_path / "rows.csv")
    runs = planned(study.variants, tmp_path, config=study.config)
    assert len({run.key for run in runs}) == len(study.variants)
    runs = planned({"full": {}, "no refresh": {"refresh_rate": 0.0}}, tmp_path, config=DistillConfig(), seeds=2)
    study.write_means(runs)
    assert not study.means.exists()  # nothing to compare with
    values = {("full", 0): 0.5, ("full", 1): 0.7, ("no refresh", 0): 0.25, ("no refresh", 1): 0.65}
    for run in [*reversed(runs), runs[0]]:
        labels = {"variant": run.variant, "seed": run.config.seed, "settings": run.settings}
        metrics = {"all": values[run.variant, run.config.seed]}
        study.append(replace(compared[0]["full"], metrics=metrics, **labels))
    assert len(pd.read_csv(study.table)) == len(runs)
    study.append(replace(compared[0]["full"], settings="of other weights"))
    study.write_means(runs)
    means = pd.read_csv(study.means, index_col=["variant", "metric"])
    assert means.loc[("full", "all"), "mean"] == pytest.approx(0.6)
    other = means.loc[("no refresh", "all")]
    assert (other["num_pairs"], other["difference"]) == (2, pytest.approx(-0.15))
    assert other["difference_half"] == pytest.approx(12.7062 * 0.1, rel=1e-4)  # t of one degree, from a table


def test_patched_code_is_a_run_of_its_own_and_is_refused_in_other_processes(tmp_path, monkeypatch):
    (before,) = planned({"full": {}}, tmp_path)
    monkeypatch.setattr(losses, "hinge_d_loss", lambda real, fake: fake.mean())
    (patched,) = planned({"full": {}}, tmp_path)
    assert patched.settings == before.settings
    assert patched.key != before.key
    monkeypatch.undo()
    assert planned({"full": {}}, tmp_path) == [before]
    with pytest.raises(ValueError, match="jobs=1"):
        finish(patched)


def test_a_part_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path):
    def wrong(batch):
        return torch.stack([logits.mean() for logits in batch.real_logits])

    with pytest.raises(ValueError, match=r"Variant 'wrong': regularizer returned shape \(30,\)"):
        list(compare({"full": {}, "wrong": {"regularizer": wrong}}, folder=tmp_path, jobs=1, **SHORT))
    assert not list(tmp_path.iterdir())
