"""Make an executed notebook fit for committing: what a reader sees stays, what one run or machine left behind goes."""

import copy
import re
from pathlib import Path

from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode

WIDGET = "application/vnd.jupyter.widget-view+json"
CONTROLS = "(controls: they appear here when the notebook runs)"
PROGRESS_BAR = re.compile(r"\d+%\||\dit \[")  # how tqdm's bars begin when they are written as text


def clean(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """A copy that keeps sources, results and figures; a widget becomes a line of text.

    Gone are: widgets' state, progress bars, what was written to stderr, timings, other metadata than cells' tags and
    the name of the kernel, and the path of this machine that leads to the project.

    Args:
        notebook: an executed one.
        folder: where it ran; its parent is the project, and is written as "." in outputs.
    """
    keep = ClearMetadataPreprocessor(enabled=True, preserve_cell_metadata_mask={"tags"})
    tidy, _ = keep.preprocess(copy.deepcopy(notebook), {})
    tidy.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    tidy.metadata.language_info = {"name": "python"}
    for cell in tidy.cells:
        if cell.cell_type == "code":
            cell.outputs = [clean_output(output, folder) for output in cell.outputs if is_for_readers(output)]
    return tidy


def is_for_readers(output: NotebookNode) -> bool:
    """False for stderr and for progress bars."""
    if output.output_type == "stream":
        return output.name != "stderr"
    return WIDGET not in output.get("data", {}) or not PROGRESS_BAR.search(output.data.get("text/plain", ""))


def clean_output(output: NotebookNode, folder: Path) -> NotebookNode:
    """A widget's address becomes a line of text, and the project's path a dot."""
    if WIDGET in output.get("data", {}):
        output.data = NotebookNode({"text/plain": CONTROLS})
    paths = [(str(folder.resolve().parent), "."), (str(Path.home()), "~")]
    texts = output.get("data", output)
    for kind, text in texts.items():
        if isinstance(text, str) and (kind.startswith("text") or kind == "evalue"):
            texts[kind] = shorten(text, paths)
    if "traceback" in output:
        output.traceback = [shorten(line, paths) for line in output.traceback]
    return output


def shorten(text: str, paths: list[tuple[str, str]]) -> str:
    """Write another word for each path, where it is a whole path or the beginning of one. The root stays as it is."""
    for path, word in paths:
        if len(path) > 1:
            text = re.sub(re.escape(path) + r"(?![\w-])", word, text)
    return text
