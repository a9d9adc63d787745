"""The lab bench: its call is the one that it says, its runs are those of a plain training, and its buttons work."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from event_loop import drive, until
from PIL import Image
from small_pool import MeanHead
from tiny_training import TINY
from torch import nn

import nitro_lab.compare as compare_module
import nitro_lab.teacher_samples as teacher_samples
from nitro_lab.compare.planning import apply
from nitro_lab.example_heads import EXAMPLES, SpectralHead
from nitro_lab.loading.run_config import read_config
from nitro_lab.policies import draw_least_updated, retire_weakest
from nitro_lab.runs.folder import read_reports
from nitro_lab.runs.recording import Recording, record
from nitro_lab.studio import prepare
from nitro_lab.views import PAPER_VIEWS
from nitro_lab.widgets.lab_bench import LabBench
from nitro_lab.widgets.lab_bench_choice import DRAWS, PARTS, RETIRES, Choice

CONFIG = replace(TINY, steps=2, refresh=0.05)


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path_factory.getbasetemp() / "lab_bench_cache"
    monkeypatch.setattr(teacher_samples, "user_cache_path", lambda name: cache)


@pytest.fixture
def bench(tmp_path: Path) -> LabBench:
    return LabBench(CONFIG, {"mean": MeanHead}, kept=tmp_path / "kept")


def executed(bench: LabBench, monkeypatch: pytest.MonkeyPatch) -> dict:
    """The arguments that the text gives to `compare`."""
    given = {}

    def compare(changes, **others):
        given.update(others, changes=changes)
        return iter(())

    monkeypatch.setattr(compare_module, "compare", compare)
    exec(str(bench.call), {"MeanHead": MeanHead})
    return given


def test_a_choice_says_only_what_was_moved():
    assert Choice().change() == {}
    assert Choice(head="spectral").change() == {"head": SpectralHead}
    assert Choice(refresh=0.01, draw="least updated", views="whole latents only").change() == {
        "refresh": 0.01,
        "draw": draw_least_updated,
        "views": PAPER_VIEWS[:1],
    }
    deep = "a deep head on the mid block (as DMD2)"
    assert Choice(head=deep, refresh=0.1).change() == EXAMPLES[deep] | {"refresh": 0.1}


@pytest.mark.parametrize("part", PARTS)
def test_every_word_of_every_control_is_a_change_that_compare_takes(part):
    for word in PARTS[part]:
        apply("a", Choice(**{part: word}).change(), replace(TINY, slots=4))


def test_the_policies_are_all_different():
    for policies in (DRAWS, RETIRES):
        assert len(set(policies.values())) == len(policies)


@pytest.mark.parametrize("head", [*EXAMPLES, "mean"])
def test_the_text_does_what_the_controls_say(bench, head, monkeypatch):
    parts = bench.controls["A"].parts
    parts["head"].value, parts["retire"].value, parts["objective"].value = head, "the weakest", "linear"
    bench.controls["B"].parts["refresh"].value = 0.03
    bench.steps.value = 7
    given = executed(bench, monkeypatch)
    assert given["steps"] == 7
    assert given["seeds"] == [CONFIG.seed]
    assert replace(given["config"], steps=CONFIG.steps) == CONFIG
    for name, controls in bench.controls.items():
        wanted = apply(name, controls.choice.change(bench.heads), CONFIG)
        made, ideas = apply(name, given["changes"][name], CONFIG)
        assert made == wanted[0]
        assert ideas.fingerprints() == wanted[1].fingerprints()
    assert given["changes"]["A"]["retire"] is retire_weakest
    assert "retire_weakest" in bench.code.value


def test_both_train_in_turn_and_each_is_what_it_would_be_alone(bench, tmp_path):
    assert bench.keep_button.disabled
    assert bench.stop_button.disabled

    async def person() -> None:
        bench.start_button.click()
        assert bench.start_button.disabled
        assert bench.steps.disabled
        await until(lambda: bench.pair and bench.pair.recordings and bench.pair.recordings["A"].step == 1)
        bench.stop_button.click()
        await until(lambda: bench.task is None)
        assert "Stopped." in bench.words.value
        assert "step 1 of 2" in bench.words.value
        assert [recording.step for recording in bench.pair.recordings.values()] == [1, 1]
        await bench.finish()

    drive(person())
    assert "step 2 of 2. Done." in bench.words.value
    for image in (bench.pictures, bench.curves):
        assert Image.open(io.BytesIO(image.value)).width > 400
        assert image.layout.display == ""
    base = replace(CONFIG, separate_chance=True)
    for name, controls in bench.controls.items():
        alone = Recording(prepare(*place(apply(name, controls.choice.change(bench.heads), base), tmp_path / name)))
        wanted, made = record(alone).table(), bench.pair.recordings[name].table()
        for column in wanted:
            if column != "seconds":
                assert np.array_equal(wanted[column], made[column], equal_nan=True), (name, column)
    keeps(bench)
    starts_anew_when_a_control_is_moved(bench)


def place(variant, folder):
    config, ideas = variant
    return config, folder, ideas


def keeps(bench: LabBench) -> None:
    bench.keep_button.click()
    (folder,) = bench.kept.iterdir()
    assert str(folder) in bench.words.value
    assert (folder / "call.py").read_text() == f"{bench.call}\n"
    for name in "AB":
        assert read_reports(folder / name)["step"] == [1, 2]
        assert read_config(folder / name)["refresh"] == 0.05
        there = {file.name for file in (folder / name).iterdir()}
        assert {"student.safetensors", "samples-2.png", "curves.png"} <= there
    with pytest.raises(ValueError, match="is there already"):
        bench.pair.keep(folder)


def starts_anew_when_a_control_is_moved(bench: LabBench) -> None:
    bench.controls["B"].parts["refresh"].value = 0.1
    assert bench.pair is None
    assert "step 0 of 2" in bench.words.value
    assert not bench.start_button.disabled
    assert bench.keep_button.disabled
    with pytest.raises(ValueError, match="press Start"):
        bench.still()


def test_a_head_that_breaks_the_contract_is_told(tmp_path):
    bench = LabBench(CONFIG, {"two": lambda channels: nn.Conv2d(channels, 2, 1)}, kept=tmp_path)

    async def person() -> None:
        bench.start()
        task = bench.task
        await until(lambda: bench.task is None)
        with pytest.raises(ValueError, match="one logit"):
            await task

    drive(person())
    assert "HeadError:</b>" in bench.words.value
    assert not bench.start_button.disabled
