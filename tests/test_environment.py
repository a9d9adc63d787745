"""The pinned versions are what is installed, and hold everything that pyproject.toml asks for."""

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
LOCK = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines()]
HERE = [pin for pin in LOCK if pin.marker is None or pin.marker.evaluate()]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def test_environment_yml_installs_the_lock_and_this_project():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [part["pip"] for part in environment["dependencies"] if isinstance(part, dict)]
    assert pip == ["-r requirements.lock", "-e ."]
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.name)
def test_lock_pins_each_dependency_once_within_its_limits(asked, python):
    where = {"python_version": python, "python_full_version": f"{python}.5"}
    same = [pin for pin in LOCK if canonicalize_name(pin.name) == canonicalize_name(asked.name)]
    (pin,) = [pin for pin in same if pin.marker is None or pin.marker.evaluate(where)]
    (version,) = pin.specifier
    assert version.operator == "=="
    assert asked.specifier.contains(version.version, prereleases=True)


def test_everything_installed_for_this_project_is_pinned():
    """Only torch's own CUDA packages may be outside the lock."""
    installed = {pin: importlib.metadata.version(pin.name) for pin in HERE}
    assert [pin for pin in HERE if not pin.specifier.contains(installed[pin], prereleases=True)] == []
    pinned = {canonicalize_name(pin.name) for pin in HERE}
    reached, waiting = set(), [canonicalize_name(asked.name) for asked in ASKED]
    while waiting:
        name = waiting.pop()
        if name in reached or re.match(r"nvidia-|cuda-|triton$", name):
            continue
        reached.add(name)
        needs = [Requirement(line) for line in importlib.metadata.requires(name) or []]
        waiting += [canonicalize_name(n.name) for n in needs if n.marker is None or n.marker.evaluate({"extra": ""})]
    assert reached <= pinned
    assert not re.search(r"://|--|^(nvidia|cuda|triton)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
