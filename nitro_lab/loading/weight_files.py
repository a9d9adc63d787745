"""Files of weights: fetched from a hub, found in a folder, and looked at before anything is loaded from them."""

import errno
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[^/]+))?/(?P<file>.+\.safetensors)")
VARIANTS = {  # diffusers' names of weights, in one file or in shards
    None: ("*model.safetensors", "*model-*-of-*.safetensors"),
    "fp16": ("*model.fp16.safetensors", "*model.fp16-*-of-*.safetensors"),
}
BEGINNINGS = {
    b"PK": "it holds pickled data under another name",
    b"\x80": "it holds pickled data under another name",
    b"version https://git-lfs": "it is only git-lfs's pointer to the file; run `git lfs pull`",
    b"<": "it is a web page",
}
SAFETENSORS_ONLY = (
    "Only safetensors files are loaded, since pickled ones can run code of their writer's. "
    "Look for a .safetensors file, or convert it: safetensors.torch.save_file(torch.load(file, weights_only=True), …)."
)


class CheckpointError(RuntimeError):
    """A model cannot be loaded. The message names the file and the next step; nothing was loaded."""


def fetch_file(file: str | Path) -> Path:
    """Path of a safetensors file that is here, or at a hub as `owner/repo[@revision]/file.safetensors`.

    Raises:
        CheckpointError: if there is no such file, or if it cannot be fetched.
    """
    path = Path(file)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{file} is not a safetensors file. {SAFETENSORS_ONLY}")
    if path.is_file():
        return path
    match = HUB_FILE.fullmatch(str(file))
    if isinstance(file, Path) or match is None:
        raise CheckpointError(f"There is no file {file}. Give a path, or owner/repo/file.safetensors of a hub.")
    with plain_hub_errors(str(file)):
        return Path(hf_hub_download(match["repo"], match["file"], revision=match["revision"]))


def fetch_folder(repo: str, revision: str | None, patterns: list[str], what: str) -> Path:
    """Folder of the hub's cache with a repository's files of these patterns; errors call them `what`.

    Raises:
        CheckpointError: if they cannot be fetched.
    """
    with plain_hub_errors(what):
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))


@contextmanager
def plain_hub_errors(what: str) -> Iterator[None]:
    """Say in one sentence why a download failed, and do not begin one that the disk cannot hold."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Not enough free disk space")
        try:
            yield
        except Exception as error:  # which network library it comes from differs between versions of huggingface_hub
            raise CheckpointError(f"{what} could not be fetched from {constants.ENDPOINT}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """What went wrong with a download, and the next step."""
    match error:
        case GatedRepoError():
            return "its owner asks for consent first. Accept the terms on its page, then log in with `hf auth login`."
        case RepositoryNotFoundError() | HFValidationError():
            return (
                "there is no such repository (nor such a folder here), or it is private. "
                "Check the name, or log in with `hf auth login`."
            )
        case RevisionNotFoundError():
            return "it has no such revision. Give one of its branches, tags or commits."
        case PermissionError() | OSError(errno=errno.EROFS):
            return (
                f"the cache {constants.HF_HUB_CACHE} cannot be written ({first_line(error)}). "
                "Set HF_HOME to a folder that you may write to."
            )
        case LocalEntryNotFoundError(__cause__=HfHubHTTPError() as answer):
            return what_status(answer)
        case LocalEntryNotFoundError():  # a kind of EntryNotFoundError: the hub was not asked
            return (
                "the hub does not answer, and the files are not in the cache yet. Check the network (and HF_ENDPOINT, "
                f'HF_HUB_OFFLINE), or load a local folder, or the embedded "mini". ({first_line(error)})'
            )
        case EntryNotFoundError():
            return "the repository has no such file. Look at its list of files for the right name."
        case HfHubHTTPError():
            return what_status(error)
        case UserWarning() | OSError(errno=errno.ENOSPC):
            return (
                f"the disk is too small ({first_line(error)}). Make room, or set HF_HOME to a folder on a larger disk."
            )
        case _:
            return f"the download was cut ({first_line(error)}). Run it again: the files that came whole are kept."


def what_status(answer: HfHubHTTPError) -> str:
    """A hub's refusal by its number, and the next step."""
    number = answer.response.status_code
    step = "Log in with `hf auth login`" if number in (401, 403) else "Wait a while and run it again"
    return f"the hub refused with HTTP status {number}. {step}, check HF_ENDPOINT, or load a local folder."


def first_line(error: Exception) -> str:
    """The gist of another library's message."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error).strip() else repr(error)


def shapes_of(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in safetensors files, read off the headers alone.

    Raises:
        CheckpointError: if a file is cut short, or no safetensors file at all.
    """
    return {name: shape for file in files for name, shape in shapes_in(file).items()}


def shapes_in(file: Path) -> dict[str, tuple[int, ...]]:
    """The same of one file."""
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read: {what_it_is(file, error)}") from error


def what_it_is(file: Path, error: Exception) -> str:
    """Why a file is not a whole safetensors file, by its first bytes, and the next step."""
    with file.open("rb") as opened:
        start = opened.read(32)
    for beginning, word in BEGINNINGS.items():
        if start.startswith(beginning):
            return f"{word}. {SAFETENSORS_ONLY}"
    return (
        f"it is cut short or damaged ({first_line(error)}). Delete {file.resolve()} and fetch or copy it again; "
        "nothing was loaded."
    )
