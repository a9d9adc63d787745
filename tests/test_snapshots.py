"""A training that is cut anywhere and resumed gives the same bits; a file is whole or the old one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from nitro_lab.snapshots import Snapshot

TOTAL, EVERY = 12, 4
SETTINGS = {"rate": 0.01, "batch": 8, "widths": [4, 4]}


class Training:
    """A small model with everything that a snapshot must keep: buffers, Adam's moments, chance, a record."""

    def __init__(self, path: Path, settings: dict = SETTINGS):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.generator = torch.Generator().manual_seed(3)
        self.losses = torch.zeros(TOTAL)
        self.snapshot = Snapshot(
            path,
            settings,
            model=self.model,
            optimizer=self.optimizer,
            generator=self.generator,
            losses=self.losses,
        )

    def run(self, cut_after: int | None = None) -> list[int]:
        """Train until the end, or stop dead after so many steps of this run. Returns the steps done."""
        done = []
        for step in self.snapshot.steps(TOTAL, EVERY):
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
        moments = {
            f"moments of {index}: {name}": value
            for index, fields in self.optimizer.state_dict()["state"].items()
            for name, value in fields.items()
        }
        return self.model.state_dict() | moments | {"losses": self.losses, "chance": self.generator.get_state()}


def differing(a: Training, b: Training) -> set[str]:
    """Names of what is not the same, bit for bit, in both."""
    left, right = a.state(), b.state()
    return {
        name
        for name in left.keys() | right
        if name not in left or name not in right or not torch.equal(left[name], right[name])
    }


@pytest.mark.parametrize("cut", range(1, TOTAL))
def test_cut_and_resumed_is_uncut_bit_for_bit(tmp_path, cut):
    uncut = Training(tmp_path / "uncut.safetensors")
    uncut.run()
    Training(tmp_path / "cut.safetensors").run(cut)
    resumed = Training(tmp_path / "cut.safetensors")
    saved = (cut - 1) // EVERY * EVERY  # a loop that is left in a step's body has not saved that step
    assert resumed.run() == list(range(saved, TOTAL))
    assert differing(uncut, resumed) == set()


def test_a_finished_training_is_loaded_and_not_run_again(tmp_path):
    first = Training(tmp_path / "file.safetensors")
    first.run()
    again = Training(tmp_path / "file.safetensors")
    assert again.run() == []
    assert differing(first, again) == set()


def test_without_a_file_it_begins_at_the_first_step(tmp_path):
    assert Training(tmp_path / "new" / "file.safetensors").snapshot.load() == 0


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (SETTINGS | {"rate": 0.02}, "rate: saved 0.01, now 0.02"),
        ({"rate": 0.01, "batch": 8}, r"widths: saved \[4, 4\], now None"),
        (SETTINGS | {"depth": 3}, "depth: saved None, now 3"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, other, named):
    Training(tmp_path / "file.safetensors").run()
    with pytest.raises(ValueError, match=f"file.safetensors was made under other settings.*{named}"):
        Training(tmp_path / "file.safetensors", other).run()


def test_equal_settings_of_other_containers_are_accepted(tmp_path):
    Training(tmp_path / "file.safetensors").run()
    assert Training(tmp_path / "file.safetensors", SETTINGS | {"widths": (4, 4)}).run() == []


KILLED = """
import os, signal, sys
from pathlib import Path
from tests_snapshots import Training
import nitro_lab.snapshots as snapshots

def half_written(tensors, file, metadata):
    Path(file).write_bytes(b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)

training = Training(Path(sys.argv[1]))
training.run(5)
snapshots.save_file = half_written
training.run()
"""


def test_killed_while_writing_leaves_the_old_file_whole(tmp_path):
    file = tmp_path / "file.safetensors"
    script = KILLED.replace("tests_snapshots", Path(__file__).stem)
    killed = subprocess.run([sys.executable, "-c", script, str(file)], cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    assert file.with_name("unfinished-file.safetensors").read_bytes() == b"half a file"
    resumed, uncut = Training(file), Training(tmp_path / "uncut.safetensors")
    assert resumed.run() == list(range(EVERY, TOTAL))
    uncut.run()
    assert differing(uncut, resumed) == set()
    assert not file.with_name("unfinished-file.safetensors").exists()
