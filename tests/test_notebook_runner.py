"""The notebook runner, on small notebooks that succeed, fail, kill their kernel or cannot be read."""

import base64
import io
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageChops

from workbook.notebook_runner import at_scale, clean, run_notebooks

GOOD = [
    "import os, sys, warnings\nprint(os.environ.get('NITRO_LAB_SCALE'), sys.executable)",
    "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)):\n    pass\nwarnings.warn('mind the step')",
    "import ipywidgets\nipywidgets.IntSlider(description='steps')",
    "print('first')\nprint(os.getcwd())\n2 + 2",
]
BAD = ["print('before')", "def divide(a):\n    return a / 0\ndivide(7)", "print('never reached')"]
UNREADABLE = {"03_conflict": "<<<<<<< HEAD\n{}\n", "04_empty": "", "05_list": "[]", "06_other": '{"nbformat": 4}'}


def write(folder: Path, name: str, sources: list[str], title: str = "Title", tag: str | None = None) -> Path:
    cells = [new_code_cell(source, metadata={"tags": [tag]} if tag else {}) for source in sources]
    notebook = new_notebook(cells=[new_markdown_cell(f"# {title}\nWhat *one* learns.\n\nMore."), *cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "an old name", "language": "python"}
    notebook.metadata.author = "somebody"
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> tuple[Path, bool, str]:
    """A project with good, bad and unreadable notebooks, run once: its folder, the result, and what was printed."""
    folder = tmp_path_factory.mktemp("project")
    write(folder / "notebooks", "01_bad", BAD, "The bad one")
    write(folder / "notebooks", "02_good", GOOD, "The good one")
    for name, text in UNREADABLE.items():
        (folder / "notebooks" / f"{name}.ipynb").write_text(text)
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": []}
    (folder / "notebooks" / "07_old.ipynb").write_text(json.dumps(old))
    (folder / "notebooks" / "._02_good.ipynb").write_bytes(b"\x00\x05\x16\x07")  # as macOS leaves it on other disks
    kernel = folder / "share" / "kernels" / "python3" / "kernel.json"  # would be found first, and does not work
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["false", "{connection_file}"], "display_name": "wrong", "language": "python"}')
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setenv("JUPYTER_PATH", str(folder / "share"))
        result = run_notebooks(folder / "notebooks", folder / "build", write_back=True, scale="smoke")
    return folder, result, printed.getvalue()


def outputs_of(file: Path) -> list[list]:
    return [cell.outputs for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def test_a_failure_is_reported_and_does_not_stop_the_others(project):
    folder, result, printed = project
    assert not [child for child in psutil.Process().children(recursive=True) if "ipykernel" in str(child.cmdline())]
    assert result is False
    assert re.search(r"01_bad .*cell 2", printed)
    assert "ZeroDivisionError: division by zero" in printed
    assert re.search(r"02_good .*ok\n", printed)
    assert re.search(r"07_old .*ok\n", printed)
    assert str(folder / "build" / "index.html") in printed
    assert outputs_of(folder / "notebooks" / "01_bad.ipynb") == [[], [], []]  # not written back
    for name, text in UNREADABLE.items():
        file = folder / "notebooks" / f"{name}.ipynb"
        assert str(file) in printed
        assert file.read_text() == text
        assert name in (folder / "build" / "index.html").read_text()


def test_only_results_and_figures_are_written_back(project):
    file = project[0] / "notebooks" / "02_good.ipynb"
    started, figure, progress, controls, text = outputs_of(file)
    scale, executable = started[0].text.split()
    assert scale == "smoke"
    assert Path(executable.replace("~", str(Path.home()))) == Path(sys.executable)
    assert "image/png" in figure[0].data
    assert progress == []  # neither the bar nor the warning
    assert list(controls[0].data) == ["text/plain"]
    assert text[0].text == "first\n./notebooks\n"  # one stream, without a path of this machine
    assert text[1].data == {"text/plain": "4"}
    notebook = nbformat.read(file, as_version=4)
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3, 4, 5]
    cover = (project[0] / "docs" / "02_good.png").read_bytes()
    assert base64.b64decode(figure[0].data["image/png"]) == cover
    assert Image.open(io.BytesIO(cover)).mode == "P"  # a palette of 256 colours


def cleaned(output, folder: str = "/data/main/notebooks"):
    (cell,) = clean(new_notebook(cells=[new_code_cell("", outputs=[output])]), Path(folder)).cells
    return cell.outputs[0]


def test_an_image_becomes_smaller_and_stays_the_same_to_the_eye():
    ramp, file = Image.radial_gradient("L").resize((64, 64)), io.BytesIO()
    image = Image.merge("RGBA", [ramp, ramp.rotate(90), ramp.rotate(180), Image.new("L", (64, 64), 255)])
    image.save(file, "png", compress_level=0)
    output = cleaned(new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode()}))
    raw = base64.b64decode(output.data["image/png"])
    assert len(raw) < len(file.getvalue())
    difference = ImageChops.difference(Image.open(io.BytesIO(raw)).convert("RGB"), image.convert("RGB"))
    assert max(high for _, high in difference.getextrema()) < 24


@pytest.mark.parametrize(
    ("project", "home", "text", "expected"),
    [
        ("/data/main", "/data", "/data/main/a.py, /data/b.py and /data", "./a.py, ~/b.py and ~"),
        ("/data/main", "/home/ann", "/data/main2, /data/main-2, /home/anna", "/data/main2, /data/main-2, /home/anna"),
        ("/", "/", "1 / 2 in /data/a.py", "1 / 2 in /data/a.py"),
    ],
)
def test_only_whole_paths_are_shortened(project, home, text, expected, monkeypatch):
    monkeypatch.setenv("HOME", home)
    error = cleaned(new_output("error", ename="E", evalue=text, traceback=[text]), f"{project}/notebooks")
    assert cleaned(new_output("stream", text=text), f"{project}/notebooks").text == expected
    assert (error.evalue, error.traceback) == (expected, [expected])


def test_pages_and_index(project):
    bad, good, index = ((project[0] / "build" / f"{name}.html").read_text() for name in ("01_bad", "02_good", "index"))
    assert "never reached" in bad  # the source is there, though it did not run
    assert '<a href="01_bad.html">The bad one</a>' in index
    assert index.count("<p>What <em>one</em> learns.</p>") == 2
    assert str(project[0]) not in good


def test_a_kernel_that_dies_is_a_failure_and_an_expected_error_is_not(tmp_path, capsys):
    folder = tmp_path / "notebooks"
    dead = write(folder, "01_dead", ["1 + 1", "import os\nos._exit(1)", "2"])
    before = dead.read_bytes()
    assert run_notebooks(folder, tmp_path / "build") is False
    assert "cell 2" in capsys.readouterr().out
    assert dead.read_bytes() == before
    dead.unlink()
    file = write(folder, "02_traps", ["1 / 0", "print('on')"], tag="raises-exception")
    assert run_notebooks(folder, tmp_path / "build", write_back=True) is True
    error, text = outputs_of(file)
    assert (error[0].ename, text[0].text) == ("ZeroDivisionError", "on\n")
    assert nbformat.read(file, as_version=4).cells[1].metadata == {"tags": ["raises-exception"]}
    file.unlink()
    with pytest.raises(FileNotFoundError, match=str(folder)):
        run_notebooks(folder, tmp_path / "build")


def test_the_environment_chooses_the_scale(monkeypatch):
    for scale, size in {"full": 400, "smoke": 4}.items():
        monkeypatch.setenv("NITRO_LAB_SCALE", scale)
        assert at_scale(400, smoke=4) == size
    monkeypatch.setenv("NITRO_LAB_SCALE", "huge")
    with pytest.raises(ValueError, match=r"NITRO_LAB_SCALE.*huge.*full.*smoke"):
        at_scale(400, smoke=4)
