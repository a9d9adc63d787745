"""Which changes of an idea's code make another experiment, and that the next session agrees."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from nitro_lab.code_fingerprint import code_fingerprint
from nitro_lab.heads import ConvHead
from nitro_lab.objectives import OBJECTIVES, Objective
from nitro_lab.views import Crops

CELL = """
import torch
from torch import nn
POWER = 2
def helper(x):
    return x.abs() ** POWER
class Mine(nn.Module):
    names = {"one", "two", "three"}
    def __init__(self, channels, width=8):
        super().__init__()
        self.read = nn.Linear(channels, 1)
    def forward(self, feature):
        return self.read(helper(feature).mean((2, 3)))  # a remark
"""


def made_in_a_cell(old: str = "", new: str = "") -> str:
    assert old in CELL
    names = {"__name__": "__main__"}
    exec(CELL.replace(old, new) if old else CELL, names)
    return code_fingerprint(names["Mine"])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("POWER = 2", "POWER = 3"),
        ("x.abs()", "x.cos()"),
        ("width=8", "width=9"),
        ('"three"', '"four"'),
        ("(nn.Module)", "(nn.Sequential)"),
        ("nn.Linear(channels, 1)", "nn.Linear(channels, 2)"),
        ("nn.Linear", "nn.Bilinear"),
    ],
)
def test_a_change_of_what_it_does_is_another(old, new):
    assert made_in_a_cell(old, new) != made_in_a_cell()


@pytest.mark.parametrize(
    ("old", "new"), [("# a remark", "# another"), ("POWER = 2", "\n\nPOWER = 2\nother = 5"), ("  # a remark", "")]
)
def test_remarks_lines_and_unused_names_are_not(old, new):
    assert made_in_a_cell(old, new) == made_in_a_cell()


def test_another_session_agrees():
    script = f"exec({CELL!r})\nfrom nitro_lab.code_fingerprint import code_fingerprint as f\nprint(f(Mine))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}  # another order of sets
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.strip() == made_in_a_cell()


def test_objects_are_their_class_and_attributes():
    assert code_fingerprint(Crops(size=4)) == code_fingerprint(Crops(size=4)) != code_fingerprint(Crops(size=5))
    assert code_fingerprint(partial(ConvHead, width=8)) != code_fingerprint(partial(ConvHead, width=16))
    assert len({code_fingerprint(objective) for objective in OBJECTIVES.values()}) == 3
    hinge = OBJECTIVES["hinge"]
    assert code_fingerprint(Objective(hinge.critic, hinge.student)) == code_fingerprint(hinge)


def test_closures_weights_and_circles():
    def scaled(factor):
        return lambda feature: factor * feature

    assert code_fingerprint(scaled(2)) == code_fingerprint(scaled(2)) != code_fingerprint(scaled(3))
    ones, zeros = (nn.Linear(2, 1) for _ in range(2))
    nn.init.ones_(ones.weight), nn.init.zeros_(zeros.weight)
    assert code_fingerprint(ones) != code_fingerprint(zeros)
    circle = [torch.ones(1)]
    circle.append(circle)
    assert code_fingerprint(circle) == code_fingerprint(circle)


def test_libraries_are_taken_by_name():
    assert code_fingerprint(torch.mean) != code_fingerprint(torch.sum)
    assert code_fingerprint(nn.Linear) != code_fingerprint(nn.Conv2d)
