"""The benchmark of the pool measures what it says, in turn; how long anything takes is not tested."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_training import tiny
from training_fixtures import cache, private_cache  # noqa: F401

from nitro_lab.discriminators.zoo import ZOO, GramHead

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pool as benchmark

CONFIG = tiny(batch_size=2, sampled_heads_per_cell=2, views=("local_conditional",), feature_indices=(0, 9))


def test_everything_is_measured_printed_and_written(monkeypatch, capsys, tmp_path):
    zoo = {"Gram matrix": GramHead, "DMD2": ZOO["DMD2"]}
    for name, value in {"CONFIG": CONFIG, "POOLS": {"pool size": 2}, "ZOO": zoo, "IDEAS": {}}.items():
        monkeypatch.setattr(benchmark, name, value)
    file = tmp_path / "deep" / "bench.json"
    benchmark.main(["--device", "cpu", "--rounds", "1", "--json", str(file)])
    data, printed = json.loads(file.read_text()), capsys.readouterr().out
    (parts,) = data["parts"].values()
    rows = {"heads ×1", "heads ×2", "pool size", "panel", "step", *(f"head: {name}" for name in zoo)}
    assert data["ratios"].keys() == rows
    assert all(row["ratio"] == row["seconds"] / row["reference_seconds"] > 0 for row in data["ratios"].values())
    assert all(row in printed for row in rows)
    assert "of 32," in data["ratios"]["pool size"]["measured"]
    assert parts.keys() == {"student", "backbone", "heads", "optimizers", "rest"}
    assert min(parts.values()) > 0


def test_sides_take_turns_and_medians_count(monkeypatch):
    """On a clock that the work advances."""
    clock, calls = [0.0], []

    def work(name: str, seconds: list[float]):
        def run() -> None:
            calls.append(name)
            clock[0] += seconds[calls.count(name) - 1]

        return run

    monkeypatch.setattr(benchmark, "_now", lambda: clock[0])
    works = work("first", [100, 1, 9, 2]), work("second", [100, 4, 8, 30])
    ratio = benchmark.Comparison("x", "a", "b", 1.0, *works).time(rounds=3)
    assert (ratio.seconds, ratio.reference_seconds, ratio.ratio) == (2, 8, 0.25)
    assert calls == ["second", "first", "first", "second"] * 2


def test_script_for_the_day_with_a_gpu_runs_in_its_smallest_form(tmp_path):
    root, file = Path(__file__).parents[1], tmp_path / "gpu.json"
    places = {"PYTHON": sys.executable, "OUT": str(tmp_path / "parts"), "JSON": str(file), "SMOKE": "1"}
    done = subprocess.run([root / "benchmarks/gpu.sh"], env=os.environ | places, capture_output=True, text=True)
    assert "failed" not in done.stdout, done.stdout
    data = json.loads(file.read_text())
    assert data["steps"]["seconds"]["cpu"] > 0
    assert all(data["heads"]["seconds"][kind] > 0 for kind in ("wide", "vmap", "loop"))
    assert data["image"]["parameters"]["VAE"] == 83_653_863
