"""Execute the notebooks, write each as an HTML page with an index page, and clean them for committing.

A notebook runs in a kernel of the interpreter that runs this module, whichever kernels are installed. A notebook that
fails does not stop the others; its page ends where it failed.
"""

import base64
import copy
import io
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

import nbformat
import tyro
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode
from PIL import Image

__all__ = ["Execution", "at_scale", "clean", "execute", "run_notebooks"]

T = TypeVar("T")
_SCALE = "NITRO_LAB_SCALE"
_WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Execution:
    """A notebook after it was run. `failure` says where it failed, if so: "in cell 2" (code cells, counted from 1)."""

    name: str
    notebook: NotebookNode
    seconds: float
    failure: str | None = None
    error: str = ""  # the last lines of the traceback

    def __str__(self) -> str:
        return f"{self.seconds:.0f} s, {f'FAILED {self.failure}' if self.failure else 'ok'}"


def at_scale(full: T, smoke: T) -> T:
    """Choose a size for a notebook by the environment variable NITRO_LAB_SCALE, "full" (the default) or "smoke"."""
    scale = os.environ.get(_SCALE, "full")
    if scale not in ("full", "smoke"):
        raise ValueError(f"{_SCALE} is {scale!r}; it must be full or smoke. Unset it for full scale.")
    return full if scale == "full" else smoke


def run_notebooks(source: Path, out: Path, write_back: bool = False, scale: str | None = None) -> bool:
    """Execute every notebook of a folder, sorted by name; print a line for each. Return whether all ran to their end.

    Args:
        source: folder of the notebooks.
        out: folder of the HTML pages. index.html is the first to open.
        write_back: replace each notebook that did not fail with the executed one, cleaned, and write its cover (the
            figure of the cell tagged "cover", else the first figure) to `docs/` beside the folder.
        scale: "full" or "smoke"; default: what NITRO_LAB_SCALE says.

    Raises:
        FileNotFoundError: if the folder holds no notebook.
    """
    files = sorted(file for file in source.glob("*.ipynb") if not file.name.startswith("._"))  # macOS leaves those
    if not files:
        raise FileNotFoundError(f"{source} holds no notebook (*.ipynb). Give the folder that holds them.")
    out.mkdir(parents=True, exist_ok=True)
    done = []
    for number, file in enumerate(files, 1):
        print(f"[{number}/{len(files)}] {file.stem} ... ", end="", flush=True)
        run = execute(file, scale)
        print(run, *run.error.splitlines(), sep="\n    ", flush=True)
        if write_back and not run.failure:
            nbformat.write(run.notebook, file)
            cover = file.resolve().parents[1] / "docs" / f"{run.name}.png"
            if _cover(run.notebook):
                cover.parent.mkdir(exist_ok=True)
                cover.write_bytes(base64.b64decode(_cover(run.notebook)))
        done.append(run)
        _write_page(run.notebook, out / f"{run.name}.html", run.name)
        _write_page(_index(done), out / "index.html", "NitroFusion workbook")
    print(f"To read them, open {out / 'index.html'}")
    return not any(run.failure for run in done)


def execute(file: Path, scale: str | None = None) -> Execution:
    """Run one notebook in its own folder until a cell fails. The result is cleaned."""
    start = time.perf_counter()
    try:
        notebook = nbformat.from_dict(nbformat.read(file, as_version=4))  # older formats are converted to bare dicts
        nbformat.validate(notebook)
    except Exception as error:  # whatever is in the file: a merge conflict, nothing, other JSON
        return Execution(file.stem, nbformat.v4.new_notebook(), 0, "while it was read", f"{file}: {error}"[:300])
    failure, text = None, ""
    native_only = KernelSpecManager(kernel_dirs=[])  # no installed kernels: `python3` is then this interpreter
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=native_only, transport_encryption="auto")
    started: list[int] = []
    client = NotebookClient(
        notebook,
        km=manager,
        resources={"metadata": {"path": str(file.parent)}},
        timeout=None,
        record_timing=False,
        coalesce_streams=True,
        on_cell_start=lambda cell, cell_index: started.append(cell_index),
    )
    try:
        client.execute(env=os.environ | ({_SCALE: scale} if scale else {}))
    except (CellControlSignal, RuntimeError) as error:  # a kernel that died is a RuntimeError
        cells = notebook.cells[: max(started, default=-1) + 1]
        failure = f"in cell {sum(cell.cell_type == 'code' for cell in cells)}"
        tracebacks = [out.traceback for cell in cells[-1:] for out in cell.outputs if out.output_type == "error"]
        lines = tracebacks[-1] if tracebacks else [str(error)]
        text = "\n".join(strip_ansi("\n".join(lines)).strip().splitlines()[-3:])
    finally:  # a client shuts down only a kernel that it started itself
        run_sync(manager.shutdown_kernel)(now=True)
    return Execution(file.stem, clean(notebook, file.parent), time.perf_counter() - start, failure, text)


def clean(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Return a copy with sources, results and figures only.

    Removed are the state of widgets, progress bars, stderr, timings, and metadata except for tags. Paths in outputs
    become relative: the parent of `folder` (where the notebook ran) is written ".". PNGs get a palette of 256 colors.
    """
    keep = ClearMetadataPreprocessor(enabled=True, preserve_cell_metadata_mask={"tags"})
    tidy, _ = keep.preprocess(copy.deepcopy(notebook), {})
    tidy.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    tidy.metadata.language_info = {"name": "python"}
    paths = {str(folder.resolve().parent): ".", str(Path.home()): "~"}
    for cell in tidy.cells:
        if cell.cell_type == "code":
            cell.outputs = [_clean_output(output, paths) for output in cell.outputs if _is_for_readers(output)]
    return tidy


def _is_for_readers(output: NotebookNode) -> bool:
    bar = _WIDGET in output.get("data", {}) and re.search(r"\d+%\||\dit \[", output.data.get("text/plain", ""))  # tqdm
    return not bar and output.get("name") != "stderr"


def _clean_output(output: NotebookNode, paths: dict[str, str]) -> NotebookNode:
    if _WIDGET in output.get("data", {}):
        output.data = NotebookNode({"text/plain": "(controls: they appear here when the notebook runs)"})
    texts = output.get("data", output)
    for kind, text in texts.items():
        if isinstance(text, str) and (kind.startswith("text") or kind == "evalue"):
            texts[kind] = _shorten(text, paths)
        if kind == "image/png":
            texts[kind] = base64.b64encode(_quantize(base64.b64decode(text))).decode()
    if "traceback" in output:
        output.traceback = [_shorten(line, paths) for line in output.traceback]
    return output


def _shorten(text: str, paths: dict[str, str]) -> str:
    """Replace each path where it is a whole path or the beginning of one. The root is kept."""
    for path, word in paths.items():
        text = re.sub(re.escape(path) + r"(?![\w-])", word, text) if len(path) > 1 else text
    return text


def _quantize(png: bytes) -> bytes:
    """Give an opaque image a palette of 256 colors, where that makes the file smaller."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.getchannel("A").getextrema() != (255, 255):
        return png
    file = io.BytesIO()
    palette = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)  # keeps rare colors
    palette.save(file, "png", optimize=True)
    return min(png, file.getvalue(), key=len)


def _write_page(notebook: NotebookNode, file: Path, title: str) -> None:
    page, _ = HTMLExporter().from_notebook_node(notebook, resources={"metadata": {"name": title}})
    file.write_text(page, encoding="utf-8")


def _index(done: list[Execution]) -> NotebookNode:
    """For each notebook its first heading and paragraph, its cover, the result and the time."""
    index = nbformat.v4.new_notebook()
    for run in done:
        prose = "\n\n".join(cell.source for cell in run.notebook.cells if cell.cell_type == "markdown")
        heading = re.search(r"^#+ (.*)", prose, re.MULTILINE)
        paragraph = re.search(r"^[^#\s].*?(?=\n\s*\n|\Z)", prose, re.MULTILINE | re.DOTALL)
        title = f"## [{heading[1] if heading else run.name}]({quote(run.name)}.html)"
        image = f'<img alt="" width="300" src="data:image/png;base64,{_cover(run.notebook)}">'
        parts = [title, image if _cover(run.notebook) else "", paragraph[0] if paragraph else "", str(run)]
        index.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(parts)))
    return index


def _cover(notebook: NotebookNode) -> str:
    """The first PNG of a cell tagged "cover", else the first one, base64-encoded; "" if there is none."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells.sort(key=lambda cell: "cover" not in cell.metadata.get("tags", []))
    outputs = (output.get("data", {}) for cell in cells for output in cell.outputs)
    return next((data["image/png"] for data in outputs if "image/png" in data), "")


def _main(
    notebooks: Path = Path("notebooks"),
    out: Path = Path("build"),
    scale: Literal["full", "smoke"] | None = None,
    write: bool = False,
) -> None:
    """Execute the notebooks and write them as HTML pages.

    Args:
        notebooks: their folder.
        out: folder of the pages; open index.html first.
        scale: size of the work; default: NITRO_LAB_SCALE, or full.
        write: write the outputs back into the notebooks.
    """
    sys.exit(0 if run_notebooks(notebooks, out, write, scale) else 1)


if __name__ == "__main__":
    tyro.cli(_main)
