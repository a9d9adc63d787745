"""A model hub on loopback: as much of its HTTP interface as `huggingface_hub` needs, with faults on demand."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

INFORMATION = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>[^/]+))?")
TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)")
FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit, known as `main` too.

    repositories: a folder for each `owner/name`.
    cuts: file name -> for one connection after the other, the byte of it at which the connection breaks.
    refusals: the hub's word for why it does not give a repository, such as `GatedRepo`.
    asked: every file whose contents were asked for, as `owner/name/file`.
    begun: file name -> the byte that the last download of it went on at.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, Path] = {}
        self.cuts: dict[str, Iterator[int]] = {}
        self.refusals: dict[str, str] = {}
        self.asked: list[str] = []
        self.begun: dict[str, int] = {}

    @property
    def url(self) -> str:
        """What to set `HF_ENDPOINT` to."""
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One connection to the hub."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep the tests' output quiet."""

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        """Find what is asked for, or say in the hub's way that it is not there."""
        path = self.path.partition("?")[0]
        match = next(filter(None, (pattern.fullmatch(path) for pattern in (TREE, FILE, INFORMATION))), None)
        folder = self.server.repositories.get(match["repo"]) if match else None
        if match is None or folder is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if match["repo"] in self.server.refusals:
            return self.send(403, b"", {"X-Error-Code": self.server.refusals[match["repo"]]})
        if match["revision"] not in (None, "main", commit(match["repo"])):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit(match["repo"])}
        if match.re is not FILE:
            describe = tree if match.re is TREE else information
            body = json.dumps(describe(match["repo"], folder)).encode()
            return self.send(200, body if with_body else b"", headers | {"Content-Type": "application/json"})
        file = folder / match["file"]
        if not file.is_file():
            return self.send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        self.send_file(f"{match['repo']}/{match['file']}", file.read_bytes(), headers, with_body)

    def send_file(self, name: str, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        """The file, from the byte that a download goes on at to its end, or to where it is to be cut."""
        headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Accept-Ranges": "bytes"}
        begin, status = 0, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin, status = int(wanted[1]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        headers["Content-Length"] = str(len(body) - begin)
        if not with_body:
            return self.send(status, b"", headers)
        self.server.asked.append(name)
        file = name.rpartition("/")[2]
        self.server.begun[file] = begin
        end = next(self.server.cuts.get(file, iter(())), len(body))
        self.send(status, body[begin:end], headers)
        self.close_connection = end < len(body)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Write an answer."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def commit(repo: str) -> str:
    """The hash of a repository's only commit."""
    return hashlib.sha1(repo.encode()).hexdigest()


def files_of(folder: Path) -> list[Path]:
    """All files of a repository."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def information(repo: str, folder: Path) -> dict:
    """What the hub tells of a repository."""
    names = [path.relative_to(folder).as_posix() for path in files_of(folder)]
    return {
        "id": repo,
        "modelId": repo,
        "sha": commit(repo),
        "private": False,
        "tags": ["diffusers"],
        "siblings": [{"rfilename": name} for name in names],
    }


def tree(repo: str, folder: Path) -> list[dict]:
    """What the hub tells of a repository's files."""
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in files_of(folder)
    ]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that serves until the block is left."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
