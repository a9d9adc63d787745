"""A run in a folder: its files, interruption and resumption, and the commands train and sample."""

import errno
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_training import TINY, as_options, differing, saved_state, saved_step, tiny
from training_fixtures import cache, private_cache  # noqa: F401

import nitro_lab.models
from nitro_lab import checkpoint, load_pipeline
from nitro_lab.cli import main
from nitro_lab.models import MODELS
from nitro_lab.training import run as run_module
from nitro_lab.training.parts import Parts
from nitro_lab.training.run import TrainingRun, read_reports, steps_done
from nitro_lab.weights import CheckpointError


@pytest.fixture(scope="module")
def whole(tmp_path_factory, private_cache):  # noqa: F811
    """A finished run. Not to be changed."""
    run = TrainingRun(TINY, tmp_path_factory.mktemp("whole"))
    list(run.steps())
    return run


def train(folder, parts=None, steps=None, **settings) -> TrainingRun:
    """Train in a folder; close after so many steps of it."""
    run = TrainingRun(tiny(**settings), folder, parts)
    with closing(run.steps()) as reports:
        list(islice(reports, steps))
    return run


def table(folder) -> pd.DataFrame:
    return read_reports(folder).drop(columns="seconds")


def command(folder, **settings) -> list[str]:
    """`nitro-lab train` with the settings of `TINY`."""
    return ["train", "--out", str(folder), *as_options(asdict(TINY) | settings)]


def test_folder_and_table_have_what_is_documented(whole):
    files = {"config.json", "checkpoint.safetensors", "reports.csv", "student.safetensors", "run.lock"}
    assert {path.name for path in whole.folder.iterdir()} == files
    assert json.loads((whole.folder / "config.json").read_text()) == json.loads(json.dumps(asdict(TINY)))
    assert saved_step(whole.folder) == whole.step == 4
    state, reports = saved_state(whole.folder), whole.table()
    assert {name.split("/")[0] for name in state} == {"student", "ema", "optimizer", "pool", "generator"}
    assert list(reports["step"]) == [1, 2, 3, 4]
    assert set(reports["t_star"]) <= set(TINY.t_star)
    assert reports["disc_loss"].tolist() == pytest.approx([report.disc_loss for report in whole.reports])
    gaps = reports[[f"logit_gap_{view}" for view in TINY.views]]
    assert gaps.mean(axis=1).tolist() == pytest.approx(reports["logit_gap"].tolist(), abs=1e-6)


def test_student_file_is_the_ema_in_half_precision_and_a_run_starts_from_it(whole, tmp_path):
    assert set(whole.samples) == {0, 2, 4}
    assert all(images.shape == (8, 3, 64, 64) for images in whole.samples.values())
    assert not torch.equal(whole.samples[0], whole.samples[4])
    with whole.state.averaged() as student:
        made = {name: value.half() for name, value in student.state_dict().items()}
    weights, loaded = load_file(whole.folder / "student.safetensors"), load_pipeline(whole.folder)
    assert loaded.scheduler.config.shifted_timestep == 250
    run = TrainingRun(tiny(init_from=str(whole.folder)), tmp_path)
    for state in (weights, loaded.unet.state_dict(), run.state.student.state_dict()):
        assert differing(made, {name: value.half() for name, value in state.items()}) == set()


def test_closed_and_resumed_is_the_same_bit_for_bit(whole, tmp_path):
    """Closed after each step, by another object and by the same."""
    train(tmp_path, steps=1)
    assert saved_step(tmp_path) == 1
    run = train(tmp_path, steps=1)
    assert torch.equal(run.samples[0], whole.samples[0])
    with closing(run.steps()) as reports:
        next(reports)
    assert saved_step(tmp_path) == 3
    list(run.steps())
    assert [report.step for report in run.reports] == [2, 3, 4]
    assert list(run.steps()) == []
    assert differing(saved_state(whole.folder), saved_state(tmp_path)) == set()
    pd.testing.assert_frame_equal(table(tmp_path), table(whole.folder))


def test_finished_run_goes_on_with_more_steps_and_drops_rows_after_its_checkpoint(whole, tmp_path):
    """As a process leaves them that is killed between two checkpoints."""
    train(tmp_path, max_train_steps=2, checkpointing_steps=7)
    rows = (whole.folder / "reports.csv").read_text().splitlines(keepends=True)
    (tmp_path / "reports.csv").write_text("".join(rows[:4]) + rows[4][:9])
    train(tmp_path)
    pd.testing.assert_frame_equal(table(tmp_path), table(whole.folder))


def test_heads_with_dropout_are_resumed_bit_for_bit(tmp_path):
    """Their random numbers come from torch's global generator."""

    def head(channels):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Conv2d(channels, 1, 1))

    losses = [report.disc_loss for report in train(tmp_path / "whole", Parts(head=head)).reports]
    torch.manual_seed(123)
    first = train(tmp_path / "cut", Parts(head=head), steps=1).reports
    assert [report.disc_loss for report in first + train(tmp_path / "cut", Parts(head=head)).reports] == losses


def test_interrupted_before_the_first_checkpoint_or_training_twice_is_refused(tmp_path, monkeypatch):
    interrupted = TrainingRun(TINY, tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, 1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            list(interrupted.steps())
    with pytest.raises(ValueError, match=str(tmp_path)):
        next(interrupted.steps())
    run = TrainingRun(TINY, tmp_path)
    with closing(run.steps()) as steps:
        assert next(steps).step == 1
        for other in (run, TrainingRun(TINY, tmp_path)):
            with pytest.raises(ValueError, match=str(tmp_path)):
                next(other.steps())
    assert saved_step(tmp_path) == 1


def test_other_settings_prompts_or_parts_are_refused(whole, tmp_path):
    before = (whole.folder / "reports.csv").read_bytes()
    with pytest.raises(ValueError, match=r"disc_learning_rate.*0\.5.*gan_loss.*hinge.*linear.*heads_per_cell.*2.*3"):
        TrainingRun(tiny(heads_per_cell=3, gan_loss="linear", disc_learning_rate=0.5), whole.folder)
    with pytest.raises(ValueError, match="parts"):
        train(whole.folder, Parts(head=lambda channels: torch.nn.Conv2d(channels, 1, 1)))
    assert (whole.folder / "reports.csv").read_bytes() == before
    file = tmp_path / "prompts.txt"
    file.write_text("a small blue ring\n")
    settings = {"prompts": str(file), "max_train_steps": 1}
    assert set(train(tmp_path / "run", **settings).state.samples.prompts) == {"a small blue ring"}
    file.write_text("a green square\n")
    with pytest.raises(ValueError, match="prompts"):
        train(tmp_path / "run", **settings)


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        TrainingRun(TINY, tmp_path)
    (tmp_path / "reports.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"reports\.csv"):
        read_reports(tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors"):
        steps_done(tmp_path)


def fail_at(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Fail where the report of a step is written."""
    append = TrainingRun._append

    def fail(self, report):
        if report.step == step:
            raise error
        append(self, report)

    monkeypatch.setattr(TrainingRun, "_append", fail)


def fail_in_checkpoint(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException) -> None:
    """Fail in the middle of writing the checkpoint after a step."""
    save = checkpoint.save_file

    def fail(tensors, file, metadata=None):
        if metadata.get("step") == str(step):
            file.write_bytes(b"half")
            raise error
        save(tensors, file, metadata=metadata)

    monkeypatch.setattr(checkpoint, "save_file", fail)


def test_full_disk_leaves_the_last_checkpoint(whole, tmp_path, monkeypatch):
    for fill, step in ((fail_at, 3), (fail_in_checkpoint, 4)):
        with monkeypatch.context() as patch:
            fill(patch, step, OSError(errno.ENOSPC, "No space left on device"))
            with pytest.raises(OSError, match="No space left"):
                train(tmp_path)
        assert saved_step(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.folder.iterdir()}
    train(tmp_path)
    assert differing(saved_state(whole.folder), saved_state(tmp_path)) == set()


def test_train_command_draws_and_resumes(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        fail_at(patch, 3, KeyboardInterrupt())
        assert main(command(tmp_path)) == 130
    assert str(tmp_path) in capsys.readouterr().err
    assert main(command(tmp_path)) == 0
    pd.testing.assert_frame_equal(table(tmp_path), table(whole.folder))
    figures = [tmp_path / name for name in ("samples-2.png", "samples-4.png", "curves.png")]
    assert all(min(Image.open(figure).size) > 200 for figure in figures)
    assert main(command(tmp_path / "frozen", disc_warmup_steps=1, max_train_steps=1)) == 0
    assert "disc_warmup_steps 1" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError("disk full"), SafetensorError("disk full"), FloatingPointError("loss nan")])
def test_train_command_ends_with_one_message(tmp_path, monkeypatch, capsys, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(run_module, "TrainingRun", fail)
    assert main(command(tmp_path)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert all(words in message for words in ("nitro-lab: ", str(error), str(tmp_path)))
    error = TypeError("a bug")  # is not hidden
    with pytest.raises(TypeError, match="a bug"):
        main(command(tmp_path))


def test_sample_command(whole, tmp_path, capsys):
    out = tmp_path / "deep" / "grid.png"
    for model in (str(whole.folder), "mini"):
        assert main(["sample", model, "a red star", "a blue ring", "--steps", "1", "2", "--out", str(out)]) == 0
        assert out.read_bytes().startswith(b"\x89PNG")
        assert str(out) in capsys.readouterr().out
        out.unlink()
    assert main(["sample", "minni", "a red star"]) == 1
    message = capsys.readouterr().err
    assert all(name in message for name in MODELS)
    assert main(["sample", "mini", "a red star", "--steps", "0"]) == 1


def test_library_errors_keep_their_traceback_and_those_of_files_are_one_line(monkeypatch, capsys):
    def raise_in(module: str, error: Exception):
        scope = {"__name__": module, "error": error}
        exec("def fail(*arguments, **options):\n    raise error", scope)
        monkeypatch.setattr(nitro_lab.models, "load_pipeline", scope["fail"])
        return main(["sample", "mini", "a red star"])

    assert raise_in("nitro_lab.models", ValueError("a wrong name")) == 1
    assert raise_in("pathlib", PermissionError(errno.EACCES, "Permission denied", "cache/x")) == 1
    assert "cache/x" in capsys.readouterr().err
    with pytest.raises(ValueError, match="shapes do not match"):
        raise_in("numpy", ValueError("shapes do not match"))


def test_a_console_of_another_encoding(whole, tmp_path):
    arguments = [*["sample", "mini", "Δ", "--out"], str(tmp_path / "x.png")]
    code = f"import sys; from nitro_lab.cli import main; sys.exit(main({arguments!r}))"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, b"does not know ?" in done.stdout) == (0, True)


def test_a_run_resumes_after_its_folder_was_moved_and_not_with_other_prompts(tmp_path, monkeypatch):
    settings = {"prompts": "prompts.txt", "init_from": "start", "max_train_steps": 2}
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    train("start", max_train_steps=2)
    Path("prompts.txt").write_text("a small blue ring\n")
    train("run", **settings)
    (tmp_path / "first").rename(tmp_path / "second")
    monkeypatch.chdir(tmp_path / "second")
    assert train("run", **settings | {"max_train_steps": 3}).step == 3
    (tmp_path / "second").rename(tmp_path / "third")
    monkeypatch.chdir(tmp_path / "third")
    Path("prompts.txt").write_text("a green square\n")
    with pytest.raises(ValueError, match="prompts"):
        train("run", **settings | {"max_train_steps": 4})
