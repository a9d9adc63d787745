"""The bench measures what it says, in turn; how long anything takes is not asked."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from tiny_training import TINY

import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.__main__ import main
from nitro_lab.bench import measure as bench
from nitro_lab.bench import page as bench_page
from nitro_lab.bench import parts as bench_parts
from nitro_lab.bench import ratio as bench_ratio
from nitro_lab.bench.baselines import ListedCritics, MeanCritics
from nitro_lab.bench.critics import pool_size
from nitro_lab.bench.heads import head_cost
from nitro_lab.bench.measure import Findings
from nitro_lab.bench.parts import PARTS, Clock, Split, split_step, step_in_parts
from nitro_lab.bench.pictures import step_parts
from nitro_lab.bench.ratio import Comparison, Ratio
from nitro_lab.distill import one_step
from nitro_lab.example_heads import EXAMPLES, GramHead
from nitro_lab.snapshots import tensors_of
from nitro_lab.studio import Training, prepare

CONFIG = replace(TINY, batch_size=2, per_cell=2, views=("local conditional",), levels=(0, 9))
RATIOS = [
    Ratio("quick", "a <b>", "c", 1.0, 2.0, 0.5),
    Ratio("slow", "a", "c", 3.0, 2.0, 1.4),
    Ratio("any", "a", "c", 1.0, 1.0, None, "cuda"),
]


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.getbasetemp() / "bench cache"
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


@pytest.fixture
def make_training(tmp_path) -> Iterator[Callable[[], Training]]:
    """Equal ones, on the CPU."""
    with bench.on_device("cpu"):
        yield lambda: prepare(CONFIG, tmp_path / "run")


def split(left_over: float = 0.5) -> Split:
    parts = dict(zip(PARTS, (0.25, 2.0, 1.0, 0.75, 0.5), strict=True))
    return Split(Ratio("parts", "full step", "two parts", sum(parts.values()) + left_over, 3.0, 1.15), parts)


def test_every_ratio_is_measured_printed_and_written(monkeypatch, capsys, tmp_path):
    measure, heads = bench.measure, {name: EXAMPLES[name] for name in list(EXAMPLES)[4:6]}
    monkeypatch.setattr(bench, "EXAMPLES", heads)
    monkeypatch.setattr(bench, "measure", lambda device, rounds: measure(device, rounds, CONFIG, {"pool size": 2}))
    json_file, page_file = tmp_path / "deep" / "bench.json", tmp_path / "deep" / "bench.html"
    options = ["--rounds", "1", "--json", str(json_file), "--html", str(page_file)]
    assert main(["bench", "--device", "cpu", *options]) == 0
    data = json.loads(json_file.read_text())
    rows = data["ratios"]
    assert {name: row["goal"] for name, row in rows.items()} == {
        "critics ×1": 1.15,
        "critics ×2": 1.15,
        "pool size": 1.05,
        "panel": 0.8,
        "step": 0.65,
        "head: Gram matrix": None,
        "head: a deep head on the mid block (as DMD2)": None,
        "parts ×1": 1.15,
        "parts ×2": 1.15,
    }
    assert all(row["ratio"] == row["our_seconds"] / row["their_seconds"] > 0 for row in rows.values())
    assert "2 heads out of a pool of 16" in rows["critics ×1"]["ours"]
    assert "of 32," in rows["pool size"]["ours"]
    assert "of 16" in rows["pool size"]["theirs"]
    assert "1 head out of a pool of 4" in rows["head: a deep head on the mid block (as DMD2)"]["ours"]
    for name in ("parts ×1", "parts ×2"):
        parts = data["splits"][name]
        assert parts["step"] == rows[name]["our_seconds"] == pytest.approx(sum(parts.values()) - parts["step"])
        assert parts["student"] + parts["backbone"] == rows[name]["their_seconds"]
    printed, page = capsys.readouterr().out, page_file.read_text()
    assert all(name in printed and name in page for name in rows)
    assert len(printed.splitlines()) <= 1 + 2 * len(rows) + 2 + 2
    assert data["commit"] in page
    assert data["torch"] in page


def test_pools_are_4800_and_48000_heads_by_default():
    assert [480 * times for times in bench.POOLS.values()] == [4800, 48000]
    assert "pool size" in bench.POOLS


def test_the_cpu_is_measured_always_and_cuda_where_it_is(monkeypatch):
    asked = []

    def measure_on(device, *_):
        asked.append(device)
        return [replace(RATIOS[0], device=device)], []

    monkeypatch.setattr(bench, "measure_on", measure_on)
    monkeypatch.setattr(bench, "hardware", lambda device: f"a {device}")
    for there, device, wanted in [(True, None, ["cpu", "cuda"]), (False, None, ["cpu"]), (True, "cuda", ["cuda"])]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        findings = bench.measure(device, 1)
        assert [row.device for row in findings.ratios] == list(findings.hardware) == wanted
    assert asked == ["cpu", "cuda", "cpu", "cuda"]


def test_rows_of_two_devices_have_names_of_their_own(tmp_path):
    rows = [RATIOS[0], replace(RATIOS[0], device="cuda")]
    bench.write_findings(Findings(rows, [], "2", {"cpu": "a", "cuda": "b"}, "c"), tmp_path / "x.json")
    data = json.loads((tmp_path / "x.json").read_text())
    assert list(data["ratios"]) == ["quick", "quick, cuda"]
    assert data["hardware"] == "a; b"


def test_the_page_stands_alone_and_says_in_words_what_was_reached(tmp_path):
    findings = Findings(
        RATIOS, [split(), split(-0.25)], "2.0", {"cpu": "two cores", "cuda": "a card"}, "abc with changes"
    )
    bench_page.write_page(findings, tmp_path / "new" / "page.html")
    page = (tmp_path / "new" / "page.html").read_text()
    for words in (
        "a &lt;b&gt;",
        "≤ 0.50 reached",
        "≤ 1.40 missed",
        "no goal",
        "two cores",
        "a card",
        "2.0",
        "abc with",
    ):
        assert words in page
    assert "heads 750, optimiser 500, left over -250" in page
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page
    assert str(tmp_path) not in page


def test_bars_are_the_parts_one_after_another():
    first, second = split(), split(-0.25)
    (axis,) = step_parts([first, second]).axes
    bars = [(bar.get_x(), bar.get_width()) for container in axis.containers for bar in container]
    widths = [1e3 * seconds for seconds in first.parts.values()]
    assert bars == [(sum(widths[:n]), width) for n, width in enumerate(widths)] + [(4500, 500)] + bars[6:]
    assert bars[6:] == [*bars[:5], (4500, 0)]
    assert [line.get_xdata()[0] for line in axis.lines] == pytest.approx([1.15 * 3000] * 2)
    assert max(split.step for split in (first, second)) == 5.0


def test_a_step_in_parts_is_the_step(make_training):
    """Bit for bit, so each part is on the same tensors as in a step."""
    whole, parts = make_training(), make_training()
    for step in range(2):
        one_step(whole, step)
        seconds = step_in_parts(parts)
    assert list(seconds) == list(PARTS)
    assert min(seconds.values()) > 0
    for part in ("generator", "pool", "student", "average", "optimizer"):
        ours, theirs = (tensors_of(getattr(training, part)) for training in (whole, parts))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items()), part


def test_the_medians_of_parts_are_without_the_first_round(monkeypatch, make_training):
    training = make_training()
    rounds = iter([100.0, 1.0, 3.0, 2.0])
    monkeypatch.setattr(bench_parts, "step_in_parts", lambda training: dict.fromkeys(PARTS, next(rounds)))
    monkeypatch.setattr(bench_parts, "steps", lambda training: lambda: None)
    found = split_step(training, rounds=3, per_cell=1)
    assert found.parts == dict.fromkeys(PARTS, 2.0)
    assert found.ratio.their_seconds == 4.0
    assert found.left_over == pytest.approx(found.step - 10)
    assert "2 heads" in found.ratio.ours


def test_a_clock_adds_up_blocks_of_one_name(monkeypatch):
    times = iter([0.0, 1.0, 5.0, 7.0])
    monkeypatch.setattr(bench_parts, "now", lambda: next(times))
    clock = Clock()
    for _ in range(2):
        with clock("heads"):
            pass
    assert clock.seconds == dict.fromkeys(PARTS, 0.0) | {"heads": 3.0}


def test_a_head_is_timed_in_a_panel_of_its_own_and_other_settings_as_a_step(make_training):
    training = make_training()
    before = training.pool.updates.clone()
    gram = head_cost(training, "Gram matrix")
    pools = [work.args[0].pool for work in (gram.our_work, gram.their_work)]
    assert [type(pool.heads[0].template) for pool in pools] == [GramHead, type(training.pool.heads[0].template)]
    for work, pool in zip((gram.our_work, gram.their_work), pools, strict=True):
        assert pool.shape == (1, 1, 2, CONFIG.per_cell)
        work()
        assert (pool.updates == 1).all()
    assert torch.equal(training.pool.updates, before)
    ladd = head_cost(training, "one head a level, no pool (as LADD)")
    assert "2 heads out of a pool of 8" in ladd.ours
    assert "4 heads out of a pool of 16" in ladd.theirs
    ladd.our_work()
    assert torch.equal(training.pool.updates, before)
    ladd.their_work()
    assert not torch.equal(training.pool.updates, before)


def test_a_larger_pool_has_as_many_heads_thrown_out(make_training):
    training = make_training()
    comparison = pool_size(training, "ten", many=100)
    assert (comparison.name, comparison.goal) == ("ten", 1.05)
    assert "4 heads out of a pool of 1,600" in comparison.ours


def test_both_sides_are_timed_in_turn_and_medians_count(monkeypatch):
    """On a clock that the works move."""
    clock, calls = [0.0], []

    def work(name: str, seconds: list[float]):
        def run() -> None:
            calls.append(name)
            clock[0] += seconds[calls.count(name) - 1]

        return run

    monkeypatch.setattr(bench_ratio, "now", lambda: clock[0])
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
