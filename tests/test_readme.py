"""The README's figures are those that were measured, its commands parse, and its links exist."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tyro
from tyro.conf import OmitArgPrefixes

from nitro_lab.mini import MODEL_FOLDER
from nitro_lab.training.config import DistillConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TEACHERS = ("teacher, 25 steps", "teacher, 8 steps", "teacher, 4 steps")
COLUMNS = (*TEACHERS, "regressed student, 1 step", "trained student, 1 step", "trained student, 4 steps")
MARKDOWN = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *MODEL_FOLDER.glob("*.md")]


@pytest.mark.parametrize("metric", ["told_apart", "shape", "texture", "all", "sharpness", "FD", "FD (random)"])
def test_figures_are_those_of_the_card(metric):
    figures = json.loads((MODEL_FOLDER / "student_figures.json").read_text())
    names = {"told_apart": "told from", "FD": "Fréchet distance to", "FD (random)": "Fréchet distance in"}
    name = names.get(metric, metric)
    row = next(line for line in README.splitlines() if re.match(rf"\| {name}\b", line))
    written = [float(cell) for cell in re.findall(r"\| ([\d.]+)", row)]
    scale = 1 if metric in ("sharpness", "FD", "FD (random)") else 100
    assert written == [round(scale * figures[column][metric], 2 if scale == 1 else 1) for column in COLUMNS]


@pytest.mark.parametrize("command", re.findall(r"nitro-lab train ((?:.*\\\n)*.*)\n", README))
def test_train_commands_are_valid(command):
    words = shlex.split(command.replace("\\\n", " "))
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    assert tyro.cli(OmitArgPrefixes[DistillConfig], args=words) != DistillConfig()


@pytest.mark.parametrize("file", MARKDOWN, ids=lambda file: file.name)
def test_links_exist(file):
    targets = re.findall(r"\]\((?!http)([^)#]+)", file.read_text())
    assert [target for target in targets if not file.parent.joinpath(target).exists()] == []
