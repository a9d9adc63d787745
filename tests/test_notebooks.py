"""Every notebook runs to its end at smoke scale, and is committed in a state fit for readers."""

import re
from pathlib import Path

import nbformat
import pytest

from nitro_lab.workbook.run import execute

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MOST_LINES = 12
MACHINE_PATH = re.compile(r"(?<![\w.~])/(root|home|tmp|Users|var)/\w")

each_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def code_cells(file: Path) -> list:
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def all_outputs(file: Path) -> list:
    return [output for cell in code_cells(file) for output in cell.outputs]


def test_there_are_notebooks():
    assert {file.name[:2] for file in NOTEBOOKS} >= {"01", "02", "03", "04"}


@each_notebook
def test_runs_at_smoke_scale(file):
    run = execute(file, scale="smoke")
    assert run.failure is None, f"cell {run.failure.cell}: {run.failure.error}"


@each_notebook
def test_opens_with_a_title_and_prose_before_code(file):
    first = nbformat.read(file, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@each_notebook
def test_code_cells_are_short(file):
    assert [cell.source for cell in code_cells(file) if len(cell.source.splitlines()) > MOST_LINES] == []


@each_notebook
def test_was_executed_from_top_to_bottom(file):
    counts = [cell.execution_count for cell in code_cells(file)]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_shows_figures_and_nothing_of_the_run_itself(file):
    outputs = all_outputs(file)
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert "image/png" in kinds
    assert not [kind for kind in kinds if "widget" in kind]
    assert not [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]


@each_notebook
def test_errors_are_shown_on_purpose_only(file):
    failed = [c for c in code_cells(file) if any(output.output_type == "error" for output in c.outputs)]
    assert [cell.source for cell in failed if "raises-exception" not in cell.metadata.get("tags", [])] == []


@each_notebook
def test_metadata_is_that_of_every_machine(file):
    notebook = nbformat.read(file, as_version=4)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert all(cell.metadata.keys() <= {"tags"} for cell in notebook.cells)


@each_notebook
def test_names_no_path_of_a_machine(file):
    assert MACHINE_PATH.findall(file.read_text(encoding="utf-8")) == []
