"""Figures of the discriminators and of training show the values that they are given."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.reference_runs import RUNS
from nitro_lab.plots.training import training_curves
from nitro_lab.training.config import DistillConfig
from workbook.figures import discriminators as plots
from workbook.figures.pool import PoolMap, pool_map, sampled_heads
from workbook.reference_runs import Run, describe, read_runs

T_STAR = (10, 250, 500, 750)
VIEWS = ("global_conditional", "local_conditional", "costs $5 or $6")
SHAPE = (4, 3, 10, 4)


def reports(disc_loss: float) -> pd.DataFrame:
    """A run of 80 steps whose logit gap grows to 1 and whose discriminator loss falls from 2."""
    rng, step, steps = np.random.default_rng(0), np.arange(1, 81), 80
    columns = {
        "step": step,
        "t_star": rng.choice(T_STAR, steps),
        "disc_loss": np.linspace(2, disc_loss, steps),
        "student_loss": np.where(step % 2 == 0, np.nan, -step / steps),
        "logit_gap": step / steps,
        "grad_norm": np.where(step % 2 == 0, 0.0, 0.5),
    }
    return pd.DataFrame(columns)


def test_pool_map_shows_each_head_in_its_place():
    values = torch.arange(480.0).view(SHAPE)
    heads = sampled_heads(1, torch.full((3, 10, 1), 3))
    axis = pool_map(values, "age", T_STAR, VIEWS, heads, torch.tensor([[3, 2, 9, 0]])).axes[0]
    assert axis.get_images()[0].get_array()[1 * 4 + 3, 2 * 10 + 5] == values[1, 2, 5, 3]
    sampled, refreshed = (line.get_xydata().tolist() for line in axis.lines if line.get_marker() in ("s", "X"))
    assert sampled == [[x, 7] for x in range(30)]
    assert refreshed == [[29, 12]]
    heads = sampled_heads(2, torch.tensor([[[0, 3], [1, 2]]]))
    assert heads.tolist() == [[2, 0, 0, 0], [2, 0, 0, 3], [2, 0, 1, 1], [2, 0, 1, 2]]


def test_an_updated_map_looks_like_a_new_one():
    live, sampled = PoolMap(SHAPE, T_STAR, VIEWS, "logit_gap"), sampled_heads(0, torch.zeros(3, 10, 1).long())
    first, second = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = [live.show(first, sampled).png(), live.show(second).png(), live.show(first, sampled).png()]
    assert images[0] == images[2] != images[1]
    assert PoolMap(SHAPE, T_STAR, VIEWS, "logit_gap").show(first, sampled).png() == images[0]


def test_principal_colors_are_the_strongest_directions():
    maps = torch.zeros(2, 7, 4, 4)
    maps[:, 3] = torch.linspace(-5, 5, 32).view(2, 4, 4)
    maps[:, 5] = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    colors = plots.principal_colors(maps)
    assert np.abs(np.corrcoef(colors[:, 0].flatten(), maps[:, 3].flatten())[0, 1]) > 0.99


def test_training_curves_show_the_reports():
    table = reports(0.5)
    losses, gaps, norms = training_curves(table, "hinge", window=1).axes
    assert losses.lines[0].get_ydata() == pytest.approx(table["disc_loss"])
    assert losses.lines[2].get_ydata() == pytest.approx(table["student_loss"].dropna())
    assert gaps.lines[0].get_ydata() == pytest.approx(table["logit_gap"][table["t_star"] == 10])
    assert len(norms.lines[0].get_ydata()) == 40  # without the steps that did not update the student
    mean = training_curves(table, "hinge", window=4).axes[0].lines[1].get_ydata()
    assert mean[[0, 1, 9]] == pytest.approx([table["disc_loss"][rows].mean() for rows in ([0], [0, 1], [6, 7, 8, 9])])


def test_the_recorded_runs_are_those_of_the_notebook():
    folder = Path(__file__).parent.parent / "docs" / "runs"
    runs = read_runs(folder)
    assert list(runs) == list(RUNS)
    flat, healthy = (runs[name].reports["logit_gap"] for name in ("learned-nothing", "healthy"))
    assert abs(flat[-50:].mean()) < abs(healthy[-50:].mean())
    assert runs["learned-nothing"].reports["disc_loss"][-50:].mean() == pytest.approx(1.386, abs=0.05)
    for name, settings in RUNS.items():
        saved = json.loads((folder / f"{name}.json").read_text())
        config = DistillConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in saved.items()})
        assert {key: getattr(config, key) for key in settings} == settings


@pytest.mark.parametrize(
    ("loss", "gan_loss", "gap", "parts"),
    [
        (2.0, "hinge", 0.0, ["2.00", "100%", "+0.000 ± 0.005", "not distinguishable"]),
        (1.99, "hinge", 0.04, ["+0.040", "positive"]),
        (-9.0, "linear", -9.0, ["-9.00,", "negative"]),
    ],
)
def test_a_small_logit_gap_is_distinguished_from_none(loss, gan_loss, gap, parts):
    noise = np.resize([0.02, -0.02], 80)  # standard error of the last quarter: 0.0046
    text = describe(Run(reports(0).assign(disc_loss=loss, logit_gap=gap + noise), gan_loss))
    assert all(part in text for part in parts)
