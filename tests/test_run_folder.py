"""A run as a folder: what is in it, that a cut run goes on as if it had not been cut, and what is refused."""

import csv
import errno
import json
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from tiny_training import TINY, differing, saved_state, saved_step

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab import load_pipeline, snapshots
from nitro_lab.__main__ import main
from nitro_lab.checkpoints import MODELS
from nitro_lab.distill_config import DistillConfig
from nitro_lab.loading.weight_files import CheckpointError
from nitro_lab.objectives import OBJECTIVES
from nitro_lab.plots.training import running_mean, training_curves
from nitro_lab.runs import folder as run_folder
from nitro_lab.runs.folder import COLUMNS, read_reports, run

HEADER = (
    "step,schedule,k,t_star,critic_loss,student_loss,margin,margin_global_conditional,margin_local_conditional,"
    "margin_local_unconditional,margin_global_unconditional,gradient_norm,critic_gradient_norm,refreshed,seconds"
)
SECONDS = COLUMNS.index("seconds")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def private_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher's samples are made once for all tests, and never in the user's folder."""
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a whole run. Not to be changed."""
    folder = tmp_path_factory.mktemp("uncut")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher_samples, "user_cache_path", lambda name: cache)
        list(run(TINY, folder))
    return folder


def timeless(folder: Path) -> list[list[str]]:
    """Rows of reports.csv without their seconds."""
    with (folder / "reports.csv").open(newline="") as file:
        return [row[:SECONDS] for row in csv.reader(file)]


def arguments(folder: Path, **changes: object) -> list[str]:
    """`nitro-lab train` with the settings of `TINY`."""
    words = ["train", "--out", str(folder)]
    for name, value in (asdict(TINY) | changes).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [option] if value else []
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def test_folder_holds_what_it_should(uncut):
    pictures = {"samples-2.png", "samples-4.png", "curves.png"}
    files = {"config.json", "checkpoint.safetensors", "reports.csv", "student.safetensors", "commit.txt", "run.lock"}
    assert {path.name for path in uncut.iterdir()} == pictures | files
    assert json.loads((uncut / "config.json").read_text()) == json.loads(json.dumps(asdict(TINY)))
    assert saved_step(uncut) == TINY.steps
    for name in pictures:
        with Image.open(uncut / name) as picture:
            assert min(picture.size) > 200


def test_reports_have_a_row_for_each_step(uncut):
    assert (uncut / "reports.csv").read_text().splitlines()[0] == HEADER
    reports = read_reports(uncut)
    assert reports["step"] == [1, 2, 3, 4]
    assert set(reports["t_star"]) <= set(TINY.t_star)
    views = [reports[f"margin_{view.replace(' ', '_')}"] for view in TINY.views]
    assert [sum(margins) / 3 for margins in zip(*views, strict=True)] == pytest.approx(reports["margin"], abs=1e-6)


def test_student_is_the_average_in_half_precision_and_loads(uncut):
    weights = load_file(uncut / "student.safetensors")
    average = {name: value for name, value in saved_state(uncut).items() if name.startswith("average/module.")}
    assert {f"average/module.{name}" for name in weights} == average.keys()
    assert all(torch.equal(value, average[f"average/module.{name}"].half()) for name, value in weights.items())
    pipe = load_pipeline("mini-regressed", unet=uncut / "student.safetensors", device="cpu")
    assert torch.equal(pipe.unet.conv_in.weight, weights["conv_in.weight"].float())


def test_run_that_was_left_goes_on_as_if_it_had_not_been(uncut, tmp_path):
    last = 3  # no step at which it saves of itself
    with closing(run(TINY, tmp_path)) as reports:
        for report in reports:
            if report.step == last:
                break
    assert saved_step(tmp_path) == last
    assert (tmp_path / f"samples-{last}.png").exists()
    list(run(TINY, tmp_path))
    assert timeless(tmp_path) == timeless(uncut)
    assert differing(saved_state(tmp_path), saved_state(uncut)) == set()


def test_rows_after_the_checkpoint_and_half_rows_are_dropped(uncut, tmp_path):
    """As a process leaves them that is killed between two checkpoints."""
    list(run(replace(TINY, steps=2), tmp_path))
    rows = (uncut / "reports.csv").read_text().splitlines(keepends=True)
    (tmp_path / "reports.csv").write_text("".join(rows[:4]) + rows[4][:9])
    list(run(TINY, tmp_path))
    assert timeless(tmp_path) == timeless(uncut)


def test_samples_start_from_the_soft_student_after_a_resume_too(uncut, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run_folder, "show", lambda training, folder, before, step: seen.append(before))
    list(run(replace(TINY, steps=2), tmp_path))
    list(run(TINY, tmp_path))
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_a_second_training_is_kept_out(tmp_path):
    with closing(run(TINY, tmp_path)) as first:
        next(first)
        with pytest.raises(ValueError, match=r"Another training is at work in .*choose another folder"):
            next(run(TINY, tmp_path))
    assert saved_step(tmp_path) == 1
    assert len(read_reports(tmp_path)["step"]) == 1


def test_other_settings_are_refused_by_name(uncut, capsys):
    before = (uncut / "reports.csv").read_bytes()
    assert main(arguments(uncut, student_rate=0.5)) == 1
    assert "config.json was made under other settings (student_rate: saved 3e-05, now 0.5)" in capsys.readouterr().err
    assert (uncut / "reports.csv").read_bytes() == before


def test_damaged_files_are_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no run's"):
        run_folder.check_settings(TINY, tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors is damaged"):
        run_folder.steps_done(tmp_path)


def fail_at_step_3(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    write = run_folder.append_row

    def fail(path: Path, row: list[float]) -> None:
        if row[0] == 3:
            raise error
        write(path, row)

    monkeypatch.setattr(run_folder, "append_row", fail)


def test_interrupted_run_says_how_to_go_on_and_does(uncut, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        fail_at_step_3(patch, KeyboardInterrupt())
        assert main(arguments(tmp_path)) == 130
    way_on = f"The run is in {tmp_path}, its checkpoint has 2 steps; the same command goes on from there."
    assert capsys.readouterr().err.splitlines()[-1] == f"nitro-lab: stopped. {way_on}"
    assert saved_step(tmp_path) == 2
    assert main(arguments(tmp_path)) == 0
    assert timeless(tmp_path) == timeless(uncut)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written ([Errno 28] No space left on device)"),
        (SafetensorError("I/O error: No space left on device"), "cannot be written (I/O error: No space left"),
        (FloatingPointError("Step 3: critic loss nan."), "Step 3: critic loss nan. The run is in"),
    ],
)
def test_what_ends_a_run_gets_one_message(tmp_path, monkeypatch, capsys, error, said):
    def fail(config: DistillConfig, folder: Path) -> None:
        raise error

    monkeypatch.setattr(run_folder, "run", fail)
    assert main(arguments(tmp_path)) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("nitro-lab: ")
    assert said in message
    assert str(tmp_path) in message


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    fail_at_step_3(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        list(run(TINY, tmp_path))
    assert saved_step(tmp_path) == 2


def test_full_disk_in_the_middle_of_a_checkpoint_leaves_the_one_before(uncut, tmp_path, monkeypatch, capsys):
    def fill(tensors, file, metadata):
        if metadata["step"] == "4":
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        save(tensors, file, metadata=metadata)

    save = snapshots.save_file
    monkeypatch.setattr(snapshots, "save_file", fill)
    with pytest.raises(OSError, match="No space left"):
        list(run(TINY, tmp_path))
    assert saved_step(tmp_path) == 2
    assert not list(tmp_path.glob("unfinished*"))
    monkeypatch.undo()
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: uncut.parent)
    list(run(TINY, tmp_path))
    assert differing(saved_state(uncut), saved_state(tmp_path)) == set()


def test_sample_draws_by_a_run_and_by_a_model(uncut, tmp_path, capsys):
    out = tmp_path / "deep" / "grid.png"
    for model in (str(uncut), "mini"):
        assert main(["sample", model, "a red star", "a blue ring", "--steps", "1", "2", "--out", str(out)]) == 0
        with Image.open(out) as picture:
            assert picture.format == "PNG"
        assert f"written to {out}" in capsys.readouterr().out
        out.unlink()


def test_a_run_can_start_from_the_student_of_another(uncut, tmp_path):
    made = load_file(uncut / "student.safetensors")
    loaded = load_pipeline(uncut)
    assert loaded.scheduler.config.shifted_timestep == 250
    with closing(run(replace(TINY, student=str(uncut), warm_up=1), tmp_path)) as reports:
        next(reports)  # of the critics alone
    for start in (loaded.unet.state_dict(), load_file(tmp_path / "student.safetensors")):
        assert all(torch.equal(start[name].half(), value) for name, value in made.items())


def test_sample_says_what_is_missing(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"student": "mini"}')
    assert main(["sample", str(tmp_path), "a red star"]) == 1
    assert f"{tmp_path} has no student.safetensors yet" in capsys.readouterr().err
    assert main(["sample", "minni", "a red star"]) == 1
    message = capsys.readouterr().err
    assert all(name in message for name in MODELS)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_curves_show_every_noise_level_and_where_critics_know_nothing(objective):
    reports = {
        "step": [1, 2, 3],
        "t_star": [10, 750, 10],
        "critic_loss": [2.0, 1.9, 1.8],
        "student_loss": [float("nan"), 0.1, 0.2],
        "margin": [0.0, 0.1, 0.2],
        "gradient_norm": [0.0, 1.0, 2.0],
    }
    losses, margins, norms = training_curves(reports, objective).axes
    assert [line.get_label() for line in margins.lines if line.get_label()[0] == "t"] == ["t* = 10", "t* = 750"]
    heights = [line.get_ydata()[0] for line in losses.lines if len(line.get_xdata()) == 2]
    assert OBJECTIVES[objective].blind_loss in heights
    assert norms.lines[0].get_xdata().tolist() == [2, 3]


def test_running_mean():
    assert running_mean(torch.tensor([1.0, 3.0, 5.0, 7.0]).numpy(), 2).tolist() == [1, 2, 4, 6]
