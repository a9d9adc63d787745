"""The notebook runner, on small notebooks that succeed, fail or kill their kernel."""

import json
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nitro_lab.workbook.clean import CONTROLS, clean_output
from nitro_lab.workbook.run import run_workbook

GOOD = [
    "import os, sys, warnings\nprint(os.environ.get('NITRO_LAB_SCALE'), sys.executable)",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass\nwarnings.warn('mind the step')",
    "import ipywidgets\nipywidgets.IntSlider(description='steps')",
    "print('first')\nprint(os.getcwd())\n2 + 2",
]
BAD = ["print('before')", "def divide(a):\n    return a / 0\ndivide(7)", "print('never reached')"]


def write(folder: Path, name: str, title: str, sources: list[str], tags: dict[int, str] | None = None) -> Path:
    cells = [new_code_cell(source) for source in sources]
    for index, tag in (tags or {}).items():
        cells[index].metadata.tags = [tag]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}\n\nWhat *one* learns.\n\nMore."), *cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "an old name", "language": "python"}
    notebook.metadata.author = "somebody"
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> tuple[Path, bool, str]:
    """A project with a good and a bad notebook, run once: its folder, the result, and what was printed."""
    folder = tmp_path_factory.mktemp("project")
    write(folder / "notebooks", "01_bad", "The bad one", BAD)
    write(folder / "notebooks", "02_good", "The <good> one", GOOD)
    patch = pytest.MonkeyPatch()
    patch.setenv("JUPYTER_PATH", str(wrong_kernel(folder)))
    printed: list[str] = []
    patch.setattr("builtins.print", lambda *parts, end="\n", **_: printed.append(" ".join(map(str, parts)) + end))
    result = run_workbook(folder / "notebooks", folder / "build", write_back=True, scale="smoke")
    patch.undo()
    return folder, result, "".join(printed)


def wrong_kernel(folder: Path) -> Path:
    """A kernel `python3` that would be found first, and is none."""
    spec = folder / "share" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["false", "{connection_file}"], "display_name": "wrong", "language": "python"}))
    return folder / "share"


def outputs_of(file: Path) -> list[list]:
    return [cell.outputs for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def test_no_kernel_outlives_its_notebook(project):
    alive = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert [command for command in alive if "ipykernel" in command] == []


def test_a_failure_is_reported_and_does_not_stop_the_others(project):
    folder, result, printed = project
    assert result is False
    lines = printed.splitlines()
    assert lines[0].startswith("[1/2] 01_bad ... ")
    assert lines[0].endswith("FAILED in cell 2")
    assert "ZeroDivisionError: division by zero" in printed
    assert [line for line in lines if line.startswith("[2/2] 02_good ... ") and line.endswith("s, ok")]
    assert lines[-1].endswith(str(folder / "build" / "index.html"))


def test_it_ran_in_this_interpreter_at_the_asked_scale(project):
    (output,) = outputs_of(project[0] / "notebooks" / "02_good.ipynb")[0]
    scale, executable = output.text.split()
    assert scale == "smoke"
    assert Path(executable.replace("~", str(Path.home()))) == Path(sys.executable)


def test_written_back_are_results_and_figures_alone(project):
    file = project[0] / "notebooks" / "02_good.ipynb"
    _, figure, progress, controls, text = outputs_of(file)
    assert "image/png" in figure[0].data
    assert progress == []  # neither the bar nor the warning
    assert controls[0].data == {"text/plain": CONTROLS}
    assert text[0].text == "first\n./notebooks\n"  # one stream, and no path of this machine
    assert text[1].data == {"text/plain": "4"}


@pytest.mark.parametrize(
    ("project", "home", "said", "shown"),
    [
        ("/data/main", "/data", "/data/main/a.py, /data/b.py and /data", "./a.py, ~/b.py and ~"),
        ("/data/main", "/home/ann", "/data/main2, /data/main-2, /home/anna", "/data/main2, /data/main-2, /home/anna"),
        ("/", "/", "1 / 2 in /data/a.py", "1 / 2 in /data/a.py"),
    ],
    ids=["project in home", "longer names", "root"],
)
def test_only_whole_paths_are_shortened(project, home, said, shown, monkeypatch):
    monkeypatch.setenv("HOME", home)
    text = clean_output(new_output("stream", text=said), Path(project) / "notebooks").text
    error = clean_output(new_output("error", evalue=said, traceback=[said]), Path(project) / "notebooks")
    assert (text, error.evalue, error.traceback) == (shown, shown, [shown])


def test_written_back_metadata_is_that_of_every_machine(project):
    notebook = nbformat.read(project[0] / "notebooks" / "02_good.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3, 4, 5]


def test_a_failed_notebook_is_not_written_back(project):
    assert outputs_of(project[0] / "notebooks" / "01_bad.ipynb") == [[], [], []]


def test_pages_and_index(project):
    folder, _, _ = project
    bad, good, index = ((folder / "build" / f"{name}.html").read_text() for name in ("01_bad", "02_good", "index"))
    assert "ZeroDivisionError" in bad
    assert "never reached" in bad  # the source is there, though it did not run
    assert "data:image/png;base64," in good
    assert "UserWarning" not in good
    assert '<a href="01_bad.html">The bad one</a>' in index
    assert '<a href="02_good.html">The &lt;good&gt; one</a>' in index
    assert index.count("<p>What <em>one</em> learns.</p>") == 2
    assert index.count("data:image/png;base64,") == 1
    assert "FAILED in cell 2" in index
    assert str(folder) not in good


def test_a_kernel_that_dies_is_a_failure_of_its_cell(tmp_path, capsys):
    write(tmp_path / "notebooks", "01_dead", "Dead", ["1 + 1", "import os\nos._exit(1)", "2"])
    assert run_workbook(tmp_path / "notebooks", tmp_path / "build") is False
    assert "FAILED in cell 2" in capsys.readouterr().out


def test_an_error_that_is_shown_on_purpose_is_none(tmp_path, capsys):
    file = write(tmp_path / "notebooks", "01", "Traps", ["1 / 0", "print('on')"], {0: "raises-exception"})
    assert run_workbook(tmp_path / "notebooks", tmp_path / "build", write_back=True) is True
    error, text = outputs_of(file)
    assert (error[0].ename, text[0].text) == ("ZeroDivisionError", "on\n")
    assert nbformat.read(file, as_version=4).cells[1].metadata == {"tags": ["raises-exception"]}


def test_without_write_back_the_notebook_stays_as_it_was(tmp_path):
    file = write(tmp_path / "notebooks", "01", "Short", ["1"])
    before = file.read_bytes()
    assert run_workbook(tmp_path / "notebooks", tmp_path / "build") is True
    assert file.read_bytes() == before


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no notebook"):
        run_workbook(tmp_path, tmp_path / "build")
