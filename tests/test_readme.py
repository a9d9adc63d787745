"""The README's figures are those that were measured, and what it points to is there."""

import json
import re
from pathlib import Path

import pytest

from nitro_lab.mini import MODEL_FOLDER

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COLUMNS = ("teacher, 25 steps", "soft student, 1 step", "trained student, 1 step", "trained student, 4 steps")


@pytest.mark.parametrize("mark", ["shape", "texture", "all", "recall"])
def test_shares_are_those_of_the_card(mark):
    figures = json.loads((MODEL_FOLDER / "critics_figures.json").read_text())
    cells = " | ".join(f"{100 * figures[name][mark]:.1f} %" for name in COLUMNS)
    assert re.search(rf"^\| [^|]*{mark}[^|]* \| {re.escape(cells)} \|$", README, re.M), cells


@pytest.mark.parametrize(("words", "mark", "digits"), [("sharpness", "sharpness", 2), ("Fréchet", "FD", 2)])
def test_distances_are_those_of_the_card(words, mark, digits):
    figures = json.loads((MODEL_FOLDER / "critics_figures.json").read_text())
    cells = " | ".join(f"{figures[name][mark]:.{digits}f}" for name in COLUMNS)
    assert re.search(rf"^\| {words}[^|]* \| {re.escape(cells)} \|$", README, re.M), cells


def test_gap_is_that_of_the_miniatures_card():
    gap = json.loads((MODEL_FOLDER / "figures.json").read_text())["gap"]["told apart by a fresh network"]
    assert f"{100 * gap:.0f} % of the time" in README


@pytest.mark.parametrize(
    "file",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/tries.md",
        "docs/refinement.md",
        "docs/ablation.md",
        "nitro_lab/mini/model/README.md",
    ],
)
def test_what_is_pointed_to_is_there(file):
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / file).read_text())
    assert [target for target in targets if not (ROOT / file).parent.joinpath(target).exists()] == []
