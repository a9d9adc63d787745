"""The bench measures what it says, in turn; how long anything takes is not asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import TINY

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab import bench
from nitro_lab.__main__ import main
from nitro_lab.bench import Comparison
from nitro_lab.bench_baselines import ListedCritics, MeanCritics

CONFIG = replace(TINY, batch_size=2, per_cell=2)


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: tmp_path / "cache")


def test_every_ratio_is_measured_printed_and_written(monkeypatch, capsys, tmp_path):
    measure = bench.measure
    monkeypatch.setattr(bench, "measure", lambda device, rounds: measure(device, rounds, CONFIG, many=2))
    file = tmp_path / "deep" / "bench.json"
    assert main(["bench", "--device", "cpu", "--rounds", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["ratios"]
    assert {name: row["goal"] for name, row in rows.items()} == {
        "critics ×1": 1.15,
        "critics ×2": 1.15,
        "pool size": 1.05,
        "panel": 0.8,
        "step": 0.65,
    }
    assert all(row["ratio"] == row["our_seconds"] / row["their_seconds"] > 0 for row in rows.values())
    assert "30 heads out of a pool of 240" in rows["critics ×1"]["ours"]
    assert "480" in rows["pool size"]["ours"]
    assert "240" in rows["pool size"]["theirs"]
    printed = capsys.readouterr().out
    assert all(name in printed for name in rows)


def test_both_sides_are_timed_in_turn_and_medians_count(monkeypatch):
    """On a clock that the works move."""
    clock, calls = [0.0], []

    def work(name: str, seconds: list[float]):
        def run() -> None:
            calls.append(name)
            clock[0] += seconds[calls.count(name) - 1]

        return run

    monkeypatch.setattr(bench, "now", lambda: clock[0])
    ours, theirs = work("ours", [100, 1, 9, 2]), work("theirs", [100, 4, 8, 30])
    ratio = Comparison("x", "a", "b", 1.0, ours, theirs).time(rounds=3)
    assert (ratio.our_seconds, ratio.their_seconds, ratio.ratio) == (2, 8, 0.25)
    assert calls == ["theirs", "ours", "ours", "theirs"] * 2


@pytest.mark.parametrize(("options", "said"), [(["--rounds", "0"], "rounds is 0"), (["--device", "tpu"], "'tpu'")])
def test_bad_options_get_one_line(options, said, capsys):
    assert main(["bench", *options]) == 1
    assert said in capsys.readouterr().err


def test_mean_critics_answer_with_means_and_can_be_differentiated():
    features = [[torch.randn(2, 3, 4, 4)], [torch.randn(4, 3, 2, 2)]]
    critics = MeanCritics(2, 1, torch.device("cpu"))
    logits = critics.score(features)
    for row, (feature,) in zip(logits, features, strict=True):
        assert torch.equal(row[0], feature.mean((1, 2, 3)))
    (gradient,) = torch.autograd.grad(sum(row.sum() for row in logits), critics.leaves())
    assert gradient != 0


def test_listed_critics_draw_different_heads_of_the_right_cells():
    channels, shape = (16, 24), (2, 3, 2, 4)
    critics = ListedCritics(channels, 8, shape, 1e-3, torch.device("cpu"))
    drawn = [head for noise_level in (0, 1) for cells in critics.draw(noise_level, 4) for h in cells for head in h]
    assert len(set(map(id, drawn))) == len(critics.heads) == 48
    for cells in critics.draw(1, 2):
        assert [[head.layers[0].in_channels for head in heads] for heads in cells] == [[16, 16], [24, 24]]
