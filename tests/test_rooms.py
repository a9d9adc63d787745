"""How the package is laid out: imports run one way, between files and between rooms, and everything stays short."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "nitro_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(f.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
TREES = {name: ast.parse(file.read_text()) for name, file in MODULES.items()}


def imported(module: str) -> set[str]:
    """Modules of this package that a module imports: at its top, in a function, or for types only."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


def room(module: str) -> str:
    """The top-level entry of the package that a module belongs to."""
    return ".".join(module.split(".")[1:2])


GRAPH = {module: imported(module) for module in MODULES}
ROOMS = {name: {room(o) for m in MODULES if room(m) == name for o in GRAPH[m]} - {name} for name in map(room, MODULES)}


def test_there_is_no_import_circle_and_a_chain_of_imports_has_at_most_nine_rooms():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle
    floors: dict[str, int] = {}
    for name in TopologicalSorter(ROOMS).static_order():
        floors[name] = 1 + max((floors[below] for below in ROOMS[name]), default=0)
    assert {name: floor for name, floor in floors.items() if floor > 9} == {}


def test_training_does_not_plot_and_plots_do_not_train():
    assert not ROOMS["training"] & {"plots", "experiments"}
    assert "training" not in ROOMS["plots"]


def test_files_functions_and_the_package_are_short():
    lines = {name: len(file.read_text().splitlines()) for name, file in MODULES.items()}
    functions = [
        (f"{name}.{node.name}", node.end_lineno - node.lineno + 1)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert {name: count for name, count in lines.items() if count > 300} == {}
    assert {name: count for name, count in functions if count > 60} == {}
    assert sum(lines.values()) <= 7_250
