"""Run all notebooks: each becomes a page of HTML, and an index page links them.

A notebook runs in a kernel of the interpreter that runs this module, whatever kernels the machine has installed. A
notebook that fails does not stop the others; its page shows how far it came.
"""

import base64
import html
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html, strip_ansi
from nbformat import NotebookNode
from tqdm.auto import tqdm

from nitro_lab.workbook.clean import clean

ERROR_LINES = 3  # of a traceback, at its end
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
article {{ display: flex; gap: 1.5rem; border-top: 1px solid #ccc; padding: 1rem 0 }}
article img {{ width: 14rem; height: 9rem; object-fit: contain; object-position: top }}
h1, h2, p {{ margin: 0 0 .5rem }}
.failed {{ color: #b00 }}
</style></head><body><h1>{title}</h1>
{articles}
</body></html>
"""
ARTICLE = """<article>{picture}<div><h2><a href="{name}.html">{title}</a></h2>
{summary}
<p{emphasis}>{result}, {seconds:.0f} s</p></div></article>"""


@dataclass(frozen=True)
class Failure:
    """Which code cell failed (counted from 1, as in `In [1]`), and the end of its error."""

    cell: int
    error: str


@dataclass(frozen=True)
class Run:
    """An executed notebook."""

    name: str
    notebook: NotebookNode
    seconds: float
    failure: Failure | None

    @property
    def result(self) -> str:
        return "ok" if self.failure is None else f"FAILED in cell {self.failure.cell}"


def run_workbook(source: Path, out: Path, write_back: bool = False, scale: str | None = None) -> bool:
    """Execute every notebook of a folder; print a line for each, and where the pages are.

    Args:
        source: the folder of notebooks, run in the order of their names.
        out: where the pages go; index.html is the first to open.
        write_back: replace each notebook that ran to its end by the executed one, cleaned for committing, and keep its
            cover in `docs/` beside the folder.
        scale: a name of `nitro_lab.workbook.scale.SCALES`; by default what the environment says.

    Returns:
        Whether all notebooks ran to their end.

    Raises:
        FileNotFoundError: if the folder holds no notebook.
    """
    files = sorted(source.glob("*.ipynb"))
    if not files:
        raise FileNotFoundError(f"{source} holds no notebook (*.ipynb). Name the folder that holds them.")
    out.mkdir(parents=True, exist_ok=True)
    runs = []
    for number, file in enumerate(files, 1):
        print(f"[{number}/{len(files)}] {file.stem} ... ", end="", flush=True)
        run = execute(file, scale)
        print(f"{run.seconds:.0f} s, {run.result}", flush=True)
        if run.failure:
            print("    " + run.failure.error.replace("\n", "\n    "), flush=True)
        elif write_back:
            write_cleaned(run, file)
        runs.append(run)
        write_page(run, source, out)
        write_index(runs, out)
    print(f"To read them, open {out / 'index.html'}")
    return all(run.failure is None for run in runs)


def execute(file: Path, scale: str | None = None) -> Run:
    """Run one notebook in its own folder, as far as it goes."""
    notebook = nbformat.read(file, as_version=4)
    native_only = KernelSpecManager(kernel_dirs=[])  # no installed kernels: `python3` is then this interpreter
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=native_only, transport_encryption="auto")
    environment = os.environ | ({"NITRO_LAB_SCALE": scale} if scale else {})
    reached: list[int] = []
    start = time.perf_counter()
    failure = None
    with tqdm(total=len(notebook.cells), leave=False, disable=None, unit="cell") as bar:

        def count(cell: NotebookNode, cell_index: int) -> None:
            reached.append(cell_index)
            bar.update()

        client = NotebookClient(
            notebook,
            km=manager,
            resources={"metadata": {"path": str(file.parent)}},
            timeout=None,
            record_timing=False,
            coalesce_streams=True,
            on_cell_start=count,
        )
        try:
            client.execute(env=environment)
        except (CellControlSignal, DeadKernelError) as error:
            failure = explain(notebook.cells[: reached[-1] + 1], error)
        finally:  # a client ends only a kernel that it started by itself
            run_sync(manager.shutdown_kernel)(now=True)
    return Run(file.stem, notebook, time.perf_counter() - start, failure)


def explain(cells: list[NotebookNode], error: Exception) -> Failure:
    """What stopped the last of these cells. A kernel that died leaves no traceback."""
    outputs = [output for output in cells[-1].outputs if output.output_type == "error"]
    text = "\n".join(outputs[-1].traceback) if outputs else str(error)
    lines = strip_ansi(text).strip().splitlines()
    return Failure(sum(cell.cell_type == "code" for cell in cells), "\n".join(lines[-ERROR_LINES:]))


def write_cleaned(run: Run, file: Path) -> None:
    """The notebook with its outputs, for committing, and its cover beside the folder, for the README."""
    nbformat.write(clean(run.notebook, file.parent), file)
    picture = cover(run.notebook)
    if picture:
        docs = file.parent.parent / "docs"
        docs.mkdir(exist_ok=True)
        (docs / f"{run.name}.png").write_bytes(picture)


def write_page(run: Run, source: Path, out: Path) -> None:
    """The notebook as HTML, controls left out: they need a kernel."""
    exporter = HTMLExporter(embed_images=True)
    page, _ = exporter.from_notebook_node(
        clean(run.notebook, source), resources={"metadata": {"name": run.name, "path": str(source)}}
    )
    (out / f"{run.name}.html").write_text(page, encoding="utf-8")


def write_index(runs: list[Run], out: Path) -> None:
    """index.html: title, first paragraph, cover, result and time of each notebook."""
    articles = "\n".join(map(article, runs))
    (out / "index.html").write_text(PAGE.format(title="NitroFusion workbook", articles=articles), encoding="utf-8")


def article(run: Run) -> str:
    title, summary = title_and_summary(run.notebook, run.name)
    picture = cover(run.notebook)
    return ARTICLE.format(
        name=html.escape(run.name),
        title=html.escape(title),
        summary=markdown2html(summary),
        picture=f'<img alt="" src="data:image/png;base64,{base64.b64encode(picture).decode()}">' if picture else "",
        result=run.result,
        emphasis=' class="failed"' if run.failure else "",
        seconds=run.seconds,
    )


def title_and_summary(notebook: NotebookNode, name: str) -> tuple[str, str]:
    """The first heading (or the file's name), and the first paragraph of prose."""
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    spaced = re.sub(r"^(#+ .*)$", r"\1\n", prose, flags=re.MULTILINE)  # a paragraph may follow its heading at once
    blocks = [block.strip() for block in re.split(r"\n\s*\n", spaced) if block.strip()]
    headings = [block.lstrip("#").strip() for block in blocks if block.startswith("#")]
    paragraphs = [block for block in blocks if not block.startswith("#")]
    return next(iter(headings), name), next(iter(paragraphs), "")


def cover(notebook: NotebookNode) -> bytes | None:
    """The PNG that stands for a notebook: the first of a cell tagged "cover", else the first of all."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells.sort(key=lambda cell: "cover" not in cell.metadata.get("tags", []))
    outputs = (output for cell in cells for output in cell.outputs)
    pictures = (output.data["image/png"] for output in outputs if "image/png" in output.get("data", {}))
    encoded = next(pictures, None)
    return None if encoded is None else base64.b64decode(encoded)
