"""What notebook 05 shows beside the bench: newborn heads, the table as text, grids, the ablation as it is."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_pool import MeanHead
from tiny_training import TINY
from torch import nn

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.compare.ablation import append_result, figure_of, read_results, sentences, tabulate_ablation
from nitro_lab.compare.pictures import grids
from nitro_lab.compare.run import Result
from nitro_lab.compare.table import print_rows, tabulate
from nitro_lab.example_heads import ProjectionHead
from nitro_lab.head_contract import HeadError
from nitro_lab.plots.heads import first_logits
from nitro_lab.studies.head_report import check_shapes, print_reports, report_heads, see
from nitro_lab.studio import prepare

RESULT = Result("full", 0, 20, 64, "k0", {"all": 0.5, "FD": 6.0}, 0.5, 10, 900.0, 0.1, "2 cores", "abc", [], Path("no"))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("workbench")
        patch.setattr(teacher_samples, "user_cache_path", lambda name: folder)
        return prepare(TINY, folder / "run")


def test_a_report_counts_weights_and_judges_every_image(training, capsys):
    before = training.generator.get_state()
    sights = see(training, noise_level=1)
    assert torch.equal(before, training.generator.get_state())
    reports = report_heads(training, {"paper": None, "mean": MeanHead, "text": ProjectionHead}, sights, repeats=1)
    channels = training.backbone.channels
    assert reports["mean"].weights == [width + 1 for width in channels]
    assert reports["paper"].weights[0] == training.pool.heads[0].size
    for report in reports.values():
        assert report.real.shape == report.fake.shape == (3, len(channels), TINY.batch_size)
        assert report.seconds > 0
    assert not torch.equal(reports["mean"].real, reports["mean"].fake)
    print_reports(reports)
    assert "65 – 97" in capsys.readouterr().out
    assert len(first_logits(reports).axes) == 3


def test_shapes_are_told_and_a_wrong_head_is_refused(training):
    sights = see(training, noise_level=0)
    shapes = check_shapes(MeanHead, sights)
    assert (TINY.batch_size, 64, 16, 16) in shapes
    assert {made[0] for made in shapes.values()} == {TINY.batch_size, TINY.batch_size * TINY.crops}
    with pytest.raises(HeadError, match="2 numbers where one logit belongs"):
        check_shapes(lambda channels: nn.Conv2d(channels, 2, 1), sights)


def four() -> list[Result]:
    """Two variants at two seeds."""
    mine = {"variant": "mine", "marks": {"all": 0.6, "FD": 5.0}}
    return [
        RESULT,
        replace(RESULT, **mine, key="k1"),
        replace(RESULT, seed=1, key="k2", marks={"all": 0.52, "FD": 6.2}),
        replace(RESULT, **mine | {"marks": {"all": 0.624, "FD": 5.25}}, seed=1, key="k3"),
    ]


def test_the_table_as_text_has_means_and_differences(capsys):
    print_rows(tabulate(four()), marks=("FD",))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["seeds", "FD"]
    assert lines[3].startswith("mine")
    assert "5.12 ± 1.6" in lines[3]  # 12.71 · 0.25 / 2
    assert "Δ -0.975 ± 0.32" in lines[4]  # 12.71 · 0.05 / 2


def test_grids_show_the_lowest_seed_of_each_variant(tmp_path):
    results = []
    for place, result in enumerate(reversed(four())):
        grid = tmp_path / f"{place}.png"
        Image.new("RGB", (3 * 128, 128), (60 * place, 0, 0)).save(grid)
        results.append(replace(result, grid=grid, captions=["a", "b", "c"]))
    figure = grids(results, shown=2)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["mine", "full"]
    assert [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes[::2]] == [120, 180]
    assert grids(four(), 2) is None


def write(path: Path, results: list[Result]) -> None:
    """A row each."""
    for result in results:
        append_result(result, path)


def test_the_ablation_reads_what_it_wrote(tmp_path):
    path = tmp_path / "ablation.csv"
    write(path, [*four(), replace(RESULT, key="long", steps=300)])
    results = read_results(path)
    assert [replace(result, grid=Path("no")) for result in results[:-1]] == four()
    rows = tabulate_ablation(results)  # without the long run
    assert sentences(rows) == (
        "mine: all 0.102 ± 0.025 of 2 seeds, better than 'full'; FD -0.975 ± 0.32 of 2 seeds, better than 'full'."
    )
    assert len(figure_of(rows).axes) == 2


def test_a_table_of_a_header_alone_is_filled(tmp_path):
    path = tmp_path / "ablation.csv"
    write(path, [RESULT])
    header = path.read_text().splitlines()[0]
    path.write_text(header + "\n")
    write(path, [RESULT])
    assert path.read_text().splitlines()[0] == header
    assert len(read_results(path)) == 1


def test_an_ablation_of_few_rows_or_none_says_what_fills_it(tmp_path):
    path = tmp_path / "ablation.csv"
    rows = tabulate_ablation(read_results(path))
    assert "benchmarks/ablation.py" in sentences(rows)
    assert figure_of(rows) is None
    write(path, [replace(RESULT, variant="no pool")])
    assert "no runs of 'full'" in sentences(tabulate_ablation(read_results(path)))
    write(path, [RESULT])
    assert "too few for an interval" in sentences(tabulate_ablation(read_results(path)))
    failed = replace(RESULT, variant="linear", marks={}, failed="Step 3", margin=float("nan"))
    write(path, [failed])
    assert "linear: ended early at every seed" in sentences(tabulate_ablation(read_results(path)))


def test_a_damaged_ablation_says_what_to_do(tmp_path):
    path = tmp_path / "ablation.csv"
    write(path, [RESULT])
    rows = list(csv.reader(path.open()))
    path.write_text("\n".join(",".join("x" if cell == "20" else cell for cell in row) for row in rows))
    with pytest.raises(ValueError, match=r"is damaged.*Restore it"):
        read_results(path)
