"""Safetensors files: downloaded from a hub, and checked before anything is loaded from them."""

import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

__all__ = ["REPOSITORY", "CheckpointError", "fetch_file", "fetch_folder", "first_line", "reading", "tensor_shapes"]

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?/(?P<file>.+\.safetensors)")
_FIRST_BYTES = {(b"PK", b"\x80"): "it is a pickled file", (b"version https://git-lfs",): "run `git lfs pull` first"}
_SAFETENSORS_ONLY = (
    "Only safetensors files are loaded, since unpickling can run code. Convert it with "
    "safetensors.torch.save_file(torch.load(file, weights_only=True), …), or look for a .safetensors file."
)


class CheckpointError(Exception):
    """A model cannot be loaded. The message names the file and what to do next; nothing was loaded."""


def fetch_file(file: str | Path) -> Path:
    """Return the path of a local safetensors file, or download `owner/repo[@revision]/file.safetensors`.

    Raises a CheckpointError if the file does not exist or cannot be downloaded.
    """
    path = Path(file)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{file} is not a safetensors file. {_SAFETENSORS_ONLY}")
    if path.is_file():
        return path
    match = None if isinstance(file, Path) else _HUB_FILE.fullmatch(file)
    if match is None:
        raise CheckpointError(f"There is no file {file}. Give a path, or owner/repo/file.safetensors of a hub.")
    with _explained(str(file)):
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))


def fetch_folder(repo: str, revision: str | None, patterns: list[str], what: str) -> Path:
    """Download a repository's files that match the patterns; return their folder in the cache.

    Raises a CheckpointError if `what` (the name for it in messages) cannot be downloaded.
    """
    with _explained(what):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


def tensor_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in safetensors files; only the headers are read.

    Raises a CheckpointError if a file is missing, damaged, not of this format, or has weights that are not real floats.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with reading(file), safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dictionary)
                header = opened.get_slice(name)
                shapes[name] = tuple(header.get_shape())
                if not re.match("B?F", header.get_dtype()) and not name.endswith("position_ids"):  # CLIP's buffer
                    problem = f"{file} has {name} as {header.get_dtype()}, which is not a real floating-point type"
                    raise CheckpointError(f"{problem}. Get the weights in F16, BF16 or F32.")
    return shapes


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn errors of reading a safetensors file into a CheckpointError, which names it and what to do next."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {_diagnosis(file, error)}") from error


def first_line(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn a failed download into a CheckpointError; do not start one that the disk cannot hold."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough free disk space")
        try:
            yield
        except Exception as error:  # network libraries, and so their exceptions, differ between hub versions
            cause = (isinstance(error, LocalEntryNotFoundError) and error.__cause__) or error
            problem = f"{what} could not be downloaded ({first_line(cause)})"
            raise CheckpointError(f"{problem}. {_next_step(error, cause)}") from error


def _next_step(error: Exception, cause: BaseException) -> str:
    """What to do after a failed download, by the kind of failure."""
    status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
    if status == 407 or type(cause).__name__ == "ProxyError":
        return "The proxy refused: check HTTPS_PROXY and HTTP_PROXY, with the user and password if it needs them."
    if status in (401, 403):
        return "Accept the terms on the repository's page if it has any, and log in with `hf auth login`."
    match error:
        case LocalEntryNotFoundError():
            return f"{constants.ENDPOINT} cannot be reached: check the network, HF_ENDPOINT and HF_HUB_OFFLINE."
        case EntryNotFoundError() | HfHubHTTPError() | HFValidationError():
            return "Check the name of the folder or repository, revision and file, or log in with `hf auth login`."
        case UserWarning() | OSError():
            return f"Check the space and the permissions of {constants.HF_HUB_CACHE}, or set HF_HOME to another folder."
    return "Check the network and try again; files that were downloaded completely are kept."


def _diagnosis(file: Path, error: Exception) -> str:
    """Why a file is not a complete safetensors file, by its first bytes, and what to do next."""
    if file.is_file():
        with file.open("rb") as opened:
            start = opened.read(32)
        for beginnings, kind in _FIRST_BYTES.items():
            if start.startswith(beginnings):
                return f"{kind}. {_SAFETENSORS_ONLY}"
    problem = f"it is missing, incomplete or damaged ({first_line(error)})"
    return f"{problem}. Delete {file.resolve()}; it is then fetched or made again."
