"""Pictures of the critics show the numbers that they are given, whole, and once."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_plots_inference import assert_whole

from nitro_lab.plots import critics as plots
from nitro_lab.plots.pool import PoolMap, drawn_heads, pool_map
from nitro_lab.plots.references import reference_curves
from nitro_lab.studies.demography import Rules, simulate
from nitro_lab.studies.reference_runs import RUNS, Run, last_quarter, read_runs, reading

T_STAR = (10, 250, 500, 750)
SHAPE = (4, 3, 10, 4)


def columns(critic_loss: float, steps: int = 80) -> dict[str, np.ndarray]:
    """A run whose margin grows to 1 and whose critics' loss falls from 2."""
    dice, step = np.random.default_rng(0), np.arange(1.0, steps + 1)
    return {
        "step": step,
        "t_star": dice.choice(T_STAR, steps).astype(float),
        "critic_loss": np.linspace(2, critic_loss, steps),
        "student_loss": np.where(step % 2 == 0, np.nan, -step / steps),
        "margin": step / steps,
        "gradient_norm": np.where(step % 2 == 0, 0.0, 0.5),
    }


def test_pool_map_shows_each_head_in_its_place():
    values = np.arange(480.0).reshape(SHAPE)
    drawn = drawn_heads(1, torch.tensor([[[3]] * 10] * 3))
    gone = torch.tensor([[3, 2, 9, 0]])
    figure = pool_map(values, "age", T_STAR, drawn, gone)
    assert_whole(figure)
    axis = figure.axes[0]
    shown = axis.get_images()[0].get_array()
    assert shown.shape == (16, 30)
    assert shown[1 * 4 + 3, 2 * 10 + 5] == values[1, 2, 5, 3]
    marks = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert marks["drawn"] == [[x, 7] for x in range(30)]
    assert marks["thrown out"] == [[29, 12]]
    names = [text.get_text() for text in axis.texts]
    assert names == ["global conditional", "local conditional", "local unconditional"]


def test_marks_do_not_move_the_map():
    values = np.zeros(SHAPE)
    figures = [pool_map(values, "age", T_STAR), pool_map(values, "age", T_STAR, torch.tensor([[0, 0, 0, 0]]))]
    for figure in figures:
        figure.draw_without_rendering()
    places = [figure.axes[0].get_position().bounds for figure in figures]
    assert places[0] == pytest.approx(places[1])
    assert places[0][2] > 0.8  # of the figure's width


def test_panel_of_several_heads_a_cell_is_listed_head_by_head():
    heads = drawn_heads(2, torch.tensor([[[0, 3], [1, 2]]]))
    assert heads.tolist() == [[2, 0, 0, 0], [2, 0, 0, 3], [2, 0, 1, 1], [2, 0, 1, 2]]


def test_live_map_redraws_only_what_moves_and_looks_like_a_still():
    live = PoolMap(SHAPE, T_STAR, "margin", most=1.0)
    dice = np.random.default_rng(0)
    first, second = dice.uniform(-1, 1, SHAPE), dice.uniform(-1, 1, SHAPE)
    drawn = drawn_heads(0, torch.zeros(3, 10, 1, dtype=torch.long))
    pictures = [live.show(first, drawn).png(), live.show(second).png(), live.show(first, drawn).png()]
    assert pictures[0] == pictures[2] != pictures[1]
    still = PoolMap(SHAPE, T_STAR, "margin", most=1.0).show(first, drawn).still()
    file = io.BytesIO()
    still.savefig(file, dpi=80)
    a, b = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (pictures[0], file.getvalue()))
    assert a.shape == b.shape
    assert np.abs(a - b).mean() < 2


def test_feature_maps_share_their_colours_down_a_column():
    same = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(1, 5, 2, 2, generator=torch.Generator().manual_seed(1))
    seen = {name: torch.zeros(1, 3, 8, 8) for name in ("t* = 10", "t* = 750")}
    figure = plots.feature_maps(seen, {"t* = 10": [same, other], "t* = 750": [same, -other]})
    assert_whole(figure)
    first, second = figure.axes[:3], figure.axes[3:]
    assert np.array_equal(first[1].get_images()[0].get_array(), second[1].get_images()[0].get_array())
    assert not np.array_equal(first[2].get_images()[0].get_array(), second[2].get_images()[0].get_array())
    assert first[2].get_title() == "level 2\n5×\n2×2"


def test_principal_colours_are_the_strongest_directions():
    maps = torch.zeros(2, 7, 4, 4)
    maps[:, 3] = torch.linspace(-5, 5, 32).view(2, 4, 4)
    maps[:, 5] = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.01
    colors = plots.principal_colors(maps)
    assert colors.shape == (2, 3, 4, 4)
    assert colors.abs().max() <= 1
    together = torch.stack([colors[:, 0].flatten(), maps[:, 3].flatten()])
    assert torch.corrcoef(together)[0, 1].abs() > 0.99


def test_demography_shows_formula_dice_and_the_run():
    rules = [Rules(refresh, n) for refresh in (0.0, 0.01) for n in (1, 4)]
    populations = [simulate(rule, 60) for rule in rules]
    measured = simulate(Rules(0.001, 4), 60, seed=1)
    figure = plots.demography(populations, measured)
    assert_whole(figure)
    age, mean = figure.subfigs[0].axes
    assert age.lines[0].get_ydata() == pytest.approx(np.ones(61))  # no refresh: all are as old as the pool
    dots = {(line.get_xdata()[0], line.get_ydata()[0]) for line in mean.lines if line.get_marker() == "o"}
    assert dots == {(p.rules.per_cell, p.updates.mean()) for p in populations}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "refresh 0 %",
        "refresh 1 %",
        "the run: refresh 0.1 %, draws 4",
        "its closed form",
    ]
    assert_whole(plots.demography(populations))


def test_heat_maps_put_every_cell_where_its_labels_say():
    response = np.random.default_rng(0).normal(size=(2, 4, 3, 10))
    figure = plots.specialists(response, ["color", "blur"], T_STAR)
    assert_whole(figure)
    blur = figure.axes[1]
    assert blur.get_title() == "blur"
    assert blur.get_images()[0].get_array()[2 * 4 + 1, 7] == response[1, 1, 2, 7]


def test_reference_runs_are_read_in_order_and_shown_on_the_same_scales(tmp_path):
    for name, loss in {"too-strong": 0.05, "a run of mine": 1.2, "healthy": 1.5}.items():
        table = columns(loss)
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        (tmp_path / f"{name}.json").write_text('{"objective": "hinge"}')
    runs = read_runs(tmp_path)
    assert list(runs) == ["healthy", "too-strong", "a run of mine"]
    figure = reference_curves(runs)
    assert_whole(figure)
    titles = [part.get_suptitle() for part in figure.subfigs]
    assert titles[0].startswith(
        "healthy: the defaults\nhinge critic loss 1.56 (78% of knowing nothing), margin +0.881 ± 0.017, gradient 0.5"
    )
    grid = [part.axes for part in figure.subfigs]
    for column in zip(*grid, strict=True):
        assert len({axis.get_ylim() for axis in column}) == 1
    assert 2.0 in [line.get_ydata()[0] for line in grid[0][0].lines]
    assert read_runs(tmp_path / "nothing here") == {}


def test_the_recorded_runs_are_those_that_the_notebook_speaks_of():
    runs = read_runs(Path(__file__).parent.parent / "docs" / "runs")
    assert list(runs) == list(RUNS)
    blind, healthy = (runs[name].columns["margin"] for name in ("learned-nothing", "healthy"))
    assert abs(blind[-50:].mean()) < abs(healthy[-50:].mean())
    assert runs["learned-nothing"].columns["critic_loss"][-50:].mean() == pytest.approx(1.386, abs=0.05)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="runs is empty"):
        reference_curves({})
    (tmp_path / "words.csv").write_text("step,critic_loss\n1,high\n")
    with pytest.raises(ValueError, match=r"has no words\.json beside it"):
        read_runs(tmp_path)
    (tmp_path / "words.json").write_text('{"objective": "hinge"}')
    with pytest.raises(ValueError, match="no table of numbers"):
        read_runs(tmp_path)
    (tmp_path / "words.csv").write_text("step,critic_loss\n")
    with pytest.raises(ValueError, match="holds no rows"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    ("loss", "objective", "margin", "words"),
    [
        (2.0, "hinge", 0.0, "(100% of knowing nothing), margin +0.000 ± "),
        (2.0, "hinge", 0.0, "tell nothing apart"),
        (1.99, "hinge", 0.04, "tell some of it apart"),
        (1.386, "non-saturating", 0.0, "(100% of knowing nothing)"),
        (0.1, "hinge", 9.0, "almost never wrong"),
        (2.5, "hinge", -1.0, "the wrong way round"),
        (-9.0, "linear", 9.0, "critic loss -9.00, margin"),
    ],
)
def test_reading_tells_a_small_margin_from_none(loss, objective, margin, words):
    swing = np.resize([0.02, -0.02], 80)  # standard error of the last quarter: 0.0046
    table = columns(loss) | {"critic_loss": np.full(80, loss), "margin": margin + swing}
    assert words in reading(Run(table, objective))


def test_a_single_step_has_no_standard_error():
    assert "± nan" in reading(Run(columns(1.0, steps=3), "hinge"))
    assert "tell nothing apart" in reading(Run(columns(1.0, steps=3), "hinge"))


def test_last_quarter_leaves_out_what_is_no_number():
    assert last_quarter(np.array([9, 9, 9, 9, 9, 9, 2, np.nan])) == 2
    assert np.isnan(last_quarter(np.array([1.0, np.nan])))
