"""A model hub on loopback: as much of its HTTP interface as `huggingface_hub` needs, with faults on demand."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

REPO, REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"
INFO = re.compile(rf"/api/models/{REPO}(/revision/{REVISION})?")
TREE = re.compile(rf"/api/models/{REPO}/tree/{REVISION}")
FILE = re.compile(rf"/{REPO}/resolve/{REVISION}/(?P<file>.+)")


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with one commit, also known as `main`.

    repositories: `owner/name` -> folder.
    cuts: file name -> the byte at which its connections break.
    refusals: `owner/name` -> the hub's error code, such as `GatedRepo`.
    asked: every file that was requested, as `owner/name/file`.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.cuts: dict[str, int] = {}
        self.refusals: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """The value for `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Keep the tests' output quiet."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        match = next(filter(None, (pattern.fullmatch(path) for pattern in (TREE, FILE, INFO))), None)
        repo = match["repo"] if match else ""
        folder = self.server.repositories.get(repo)
        if match is None or folder is None:
            return self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        if repo in self.server.refusals:
            return self.send(403, b"", {"X-Error-Code": self.server.refusals[repo]})
        if match["revision"] not in (None, "main", commit(repo)):
            return self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        headers = {"X-Repo-Commit": commit(repo)}
        if match.re is not FILE:
            body = json.dumps((tree if match.re is TREE else information)(repo, folder)).encode()
            return self.send(200, body, headers | {"Content-Type": "application/json"})
        file = folder / match["file"]
        if not file.is_file():
            return self.send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        self.send_file(f"{repo}/{match['file']}", file.read_bytes(), headers)

    do_HEAD = do_GET  # noqa: N815

    def send_file(self, name: str, body: bytes, headers: dict[str, str]) -> None:
        """Send a file, up to its end or to where it is to be cut."""
        headers |= {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "Content-Length": str(len(body))}
        end = len(body)
        if self.command == "GET":
            self.server.asked.append(name)
            end = self.server.cuts.get(name.rpartition("/")[2], end)
            self.close_connection = end < len(body)
        self.send(200, body[:end], headers)

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send an answer; a HEAD request gets no body."""
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def commit(repo: str) -> str:
    """The hash of a repository's only commit."""
    return hashlib.sha1(repo.encode()).hexdigest()


def information(repo: str, folder: Path) -> dict:
    """The hub's description of a repository."""
    files = [{"rfilename": entry["path"]} for entry in tree(repo, folder)]
    return {"id": repo, "sha": commit(repo), "private": False, "tags": ["diffusers"], "siblings": files}


def tree(repo: str, folder: Path) -> list[dict]:
    """The hub's list of a repository's files."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [
        {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
        for name, body in sorted(files.items())
    ]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that serves until the block ends."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


@contextmanager
def running_proxy(status: int) -> Iterator[str]:
    """The address of a proxy that answers every request for a tunnel with an error."""

    class Refusing(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keep the tests' output quiet."""

        def do_CONNECT(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
