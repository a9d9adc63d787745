"""Every notebook runs to its end at smoke scale, and is committed in a state fit for readers."""

import re
from pathlib import Path

import nbformat
import pytest

from workbook.notebook_runner import execute

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("[0-9]*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.~])/(root|home|tmp|Users|var)/\w")

each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def test_there_are_five_notebooks_of_at_most_five_megabytes_together():
    assert [file.name[:2] for file in NOTEBOOKS] == ["01", "02", "03", "04", "05"]
    assert sum(file.stat().st_size for file in NOTEBOOKS) <= 5_000_000


@each_notebook
def test_runs_at_smoke_scale(file):
    run = execute(file, scale="smoke")
    assert run.failure is None, f"{run.failure}: {run.error}"


@each_notebook
def test_is_committed_as_executed_from_top_to_bottom_without_traces_of_the_machine(file):
    notebook = nbformat.read(file, as_version=4)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.source for cell in cells if len(cell.source.splitlines()) > 12] == []
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [(cell, output) for cell in cells for output in cell.outputs]
    kinds = {kind for _, output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert not [kind for kind in kinds if "widget" in kind]
    assert not [output for _, output in outputs if output.get("name") == "stderr"]
    failed = [cell for cell, output in outputs if output.output_type == "error"]
    assert [cell.source for cell in failed if "raises-exception" not in cell.metadata.get("tags", [])] == []
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert all(cell.metadata.keys() <= {"tags"} for cell in notebook.cells)
    assert MACHINE_PATH.findall(file.read_text(encoding="utf-8")) == []
