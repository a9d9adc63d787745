"""Checkpoints resume a training bit for bit; a file is complete or the old one; hashes stay those of users' caches."""

import copy
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from nitro_lab.checkpoint import Checkpoint, atomic_write, hash_of, weights_hash
from nitro_lab.weights import CheckpointError

TOTAL, EVERY = 12, 4
SETTINGS = {"learning_rate": 0.01, "batch_size": 8, "widths": [4, 4]}


class Training:
    """A small model with all kinds of state: buffers, Adam's moments, a generator, recorded losses."""

    def __init__(self, path: Path, settings: dict = SETTINGS):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.generator = torch.Generator().manual_seed(3)
        self.losses = torch.zeros(TOTAL)
        parts = {"model": self.model, "optimizer": self.optimizer, "generator": self.generator, "losses": self.losses}
        self.checkpoint = Checkpoint(path, settings, **parts)

    def run(self, cut_after: int | None = None) -> list[int]:
        """Train to the end, or break off after so many steps. Returns the steps done."""
        done = []
        for step in self.checkpoint.steps(TOTAL, EVERY):
            loss = self.model(torch.randn(8, 4, generator=self.generator)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses[step] = loss.detach()
            done.append(step)
            if len(done) == cut_after:
                break
        return done

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that must be equal after a resume."""
        moments = self.optimizer.state_dict()["state"]
        flat = {f"{index} {name}": value for index, fields in moments.items() for name, value in fields.items()}
        return self.model.state_dict() | flat | {"losses": self.losses, "generator": self.generator.get_state()}


def assert_resumes_at(file: Path, step: int) -> None:
    """The rest of the training is run, and its end is that of an uninterrupted one."""
    resumed, uncut = Training(file), Training(file.with_name("uncut.safetensors"))
    assert resumed.run() == list(range(step, TOTAL))
    uncut.run()
    left, right = uncut.state(), resumed.state()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


@pytest.mark.parametrize("cut", range(1, TOTAL))
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, cut):
    file = tmp_path / "new" / "cut.safetensors"
    Training(file).run(cut)
    assert_resumes_at(file, (cut - 1) // EVERY * EVERY)  # breaking off inside a step does not save that step
    assert_resumes_at(file, TOTAL)  # a finished training is only loaded


def test_other_settings_are_refused(tmp_path):
    file = tmp_path / "file.safetensors"
    Training(file).run()
    assert Training(file, SETTINGS | {"widths": (4, 4)}).run() == []  # equal as JSON
    named = r"file\.safetensors.*depth.*None.*3.*learning_rate.*0\.01.*0\.02.*widths.*\[4, 4\].*None"
    with pytest.raises(ValueError, match=named):
        Training(file, {"learning_rate": 0.02, "batch_size": 8, "depth": 3}).run()


MISFITS = {  # what is saved in place of a part -> what the message names
    "name": ({"model": nn.Linear(4, 3)}, r"model/0\.bias is None there and \(4,\) here"),
    "shape": ({"losses": torch.zeros(3)}, r"losses/value is \(3,\) there and \(12,\) here"),
    "generator of a GPU": ({"generator": torch.zeros(16, dtype=torch.uint8)}, r"generator/.*GPU"),
    "moments": ({"optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(9))])}, r"optimizer/0/exp_avg is \(9,\)"),
    "surplus": ({"pool_generator": torch.ones(3)}, "pool_generator/value"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_before_anything_is_overwritten(tmp_path, misfit):
    changes, message = MISFITS[misfit]
    for optimizer in (part for part in changes.values() if isinstance(part, torch.optim.Optimizer)):
        optimizer.param_groups[0]["params"][0].grad = torch.ones(9)
        optimizer.step()
    training = Training(tmp_path / "file.safetensors")
    training.run(EVERY)
    Checkpoint(training.checkpoint.path, SETTINGS, **training.checkpoint.parts | changes).save(EVERY)
    other = Training(training.checkpoint.path)
    before = {name: value.clone() for name, value in other.state().items()}
    with pytest.raises(CheckpointError, match=rf"file\.safetensors.*{message}.*start"):
        other.checkpoint.load()
    assert all(torch.equal(value, before[name]) for name, value in other.state().items())


def test_another_safetensors_file_is_not_a_checkpoint(tmp_path):
    save_file({"model/0.bias": torch.ones(1)}, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=r"file\.safetensors.*delete"):
        Training(tmp_path / "file.safetensors").checkpoint.load()


KILLED = f"""
import os, signal, sys
from pathlib import Path
from {Path(__file__).stem} import Training
import nitro_lab.checkpoint

def half_written(tensors, file, metadata):
    Path(file).write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)

training = Training(Path(sys.argv[1]))
training.run(5)
nitro_lab.checkpoint.save_file = half_written
training.run()
"""


def test_killed_while_writing_leaves_the_old_file(tmp_path):
    file = tmp_path / "file.safetensors"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    (part,) = tmp_path.glob("unfinished-*")
    assert part.read_bytes() == b"half a file"
    os.utime(part, (0, time.time() - 48 * 3600))
    assert_resumes_at(file, EVERY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.safetensors", "uncut.safetensors"]


def test_writers_of_one_file_do_not_mix(tmp_path):
    def write_while_another_does(file: Path) -> None:
        file.write_text("first")
        atomic_write(path, lambda other: other.write_text("second"))
        assert (file.read_text(), path.read_text()) == ("first", "second")

    path = tmp_path / "file"
    atomic_write(path, write_while_another_does)
    assert path.read_text() == "first"
    with pytest.raises(ZeroDivisionError):
        atomic_write(path, lambda file: file.write_text("new") and 1 / 0)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_hashes_do_not_change():
    """The names of files in users' caches."""
    assert hash_of({"steps": 25, "seed": 0}, ["a red star", "ein grüner Kreis"]) == "bc7217a125730f96"
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.copy_(torch.arange(6).view(2, 3))
        module.bias.copy_(torch.tensor([0.5, -1]))
    assert weights_hash(module) == "6fbe186664a2b3b1"
    assert weights_hash(module.to(torch.bfloat16)) == "0e3d7753cbcf5d13"


def test_every_change_of_a_module_changes_its_hash():
    module = nn.Conv2d(2, 3, 2)
    changed = {name: copy.deepcopy(module) for name in ("same", "negative", "zeros", "ones", "one", "half")}
    with torch.no_grad():
        changed["negative"].weight.neg_()
        changed["zeros"].weight.zero_()
        changed["ones"].weight.fill_(1)
        changed["one"].bias[2] += 1e-6
        changed["half"].half()
        changed["other name"] = nn.ModuleList([module])
        changed["same"].to(memory_format=torch.channels_last)
    hashes = {name: weights_hash(one) for name, one in changed.items()}
    assert hashes.pop("same") == weights_hash(module) not in hashes.values()
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "Permission denied"), SafetensorError("I/O error: os error 28")]
)
def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path, error):
    file = tmp_path / "samples"
    file.write_text("old")

    def fail(path):
        path.write_text("half")
        raise error

    with pytest.raises(OSError, match=f"{error.args[-1]}.*{file}"):
        atomic_write(file, fail)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
