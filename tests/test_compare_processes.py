"""Comparisons in processes: heads that no module holds go there and come back as results."""

from pathlib import Path

from tiny_training import TINY
from torch import nn

import nitro_lab.compare as compare
from nitro_lab.compare.planning import plan


def test_heads_that_no_module_holds_reach_other_processes(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compare, "estimate", lambda runs, jobs: "")

    class Mine(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.read = nn.Conv2d(channels, 1, 1)

        def forward(self, feature):
            return self.read(feature)

    changes = {"mine": Mine, "mid": {"head": Mine, "levels": (9,)}}
    runs = plan(changes, seeds=1, steps=1, images=12, config=TINY, folder=tmp_path)
    results = {result.variant: result for result in compare.carry_out(runs, jobs=2)}
    sizes = [channels + 1 for channels in (64,) * 4 + (80,) * 3 + (96,) * 3]
    assert results["mine"].parameters == 4 * 3 * 2 * sum(sizes)
    assert results["mid"].parameters == 4 * 3 * 2 * sizes[9]
    assert {result.key for result in results.values()} == {run.key for run in runs}
    assert len(list(tmp_path.glob("*/result.json"))) == 2
