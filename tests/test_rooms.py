"""How the package is laid out: a file imports from lower rooms only, and no room imports back."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nitro_lab"
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    """A file's module; the package for an `__init__.py`."""
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(file): file for file in FILES}


def imported(file: Path) -> set[str]:
    """Modules of this package that a file imports, at its top or in a function, but for those of types alone."""
    tree = ast.parse(file.read_text())
    for_types = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    left_out = {inner for node in for_types for inner in ast.walk(node)}
    found = set()
    for node in set(ast.walk(tree)) - left_out:
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"{file} has a relative import; write the whole name, which this test can read.")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def room(module: str) -> str:
    """The folder that a module lies in, or the module where it lies in none."""
    return module.split(".")[1] if "." in module else ""


def test_imports_between_rooms_run_one_way():
    rooms: dict[str, set[str]] = {}
    for module, file in MODULES.items():
        others = {room(other) for other in imported(file)} - {room(module)}
        rooms.setdefault(room(module), set()).update(others)
    order = list(TopologicalSorter(rooms).static_order())  # raises CycleError, which names the circle
    assert order.index("plots") < order.index("widgets")
    assert order.index("distill") < order.index("runs")


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_stay_short(file):
    assert len(file.read_text().splitlines()) < 250
