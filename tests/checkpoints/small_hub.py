"""A Hugging Face hub of a few kilobytes on localhost: what a pull meets of its interface, and its moods."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_letmein"
LARGE = (".safetensors", ".bin", ".pt", ".model")  # kept with Git LFS on the real one


@dataclass
class Repo:
    """files: of the one commit there is. gated: only for TOKEN."""

    files: dict[str, bytes]
    gated: bool = False
    commit: str = ""

    def __post_init__(self) -> None:
        content = b"".join(name.encode() + data for name, data in sorted(self.files.items()))
        self.commit = self.commit or hashlib.sha1(content).hexdigest()


@dataclass
class SmallHub:
    """requests: method, path and Range of all that was asked, but for large files where they really lie: as
    on the real one, on another host. tokens_elsewhere: what that host was told and should not be.
    cut: file -> bytes after which the connection is dropped, once for each number. held: file -> bytes after
    which nothing more comes. harmed: files of which another byte comes. proxied: hosts that it was asked for,
    as a proxy is. down: all is answered with 503. portal: all is answered with a page, as networks do that
    want a login first.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens_elsewhere: list[str] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    harmed: set[str] = field(default_factory=set)
    proxied: set[str] = field(default_factory=set)
    down: bool = False
    portal: bool = False
    release: threading.Event = field(default_factory=threading.Event)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        paths = (path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path)
        return [path.split("/", 5)[5] for path in paths]

    def start(self) -> tuple[ThreadingHTTPServer, str]:
        """Serves in a thread; returns the server and its URL."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_address[1]}"


_ELSEWHERE = "/elsewhere/"
_NO_PULLS = "/api/agent-harnesses"  # which the library asks for once a day
_LISTING = re.compile(r"/api/models/([^/]+/[^/?]+)(?:/(?:revision|tree)/([^?]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class _Handler(BaseHTTPRequestHandler):
    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.path.startswith("http://"):
            host, _, rest = self.path.removeprefix("http://").partition("/")
            self.hub.proxied.add(host)
            self.path = f"/{rest}"
        if self.path == _NO_PULLS:
            return self._refuse(404)
        if self.path.startswith(_ELSEWHERE):
            return self._send_large_file()
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.hub.down:
            return self._refuse(503)
        if self.hub.portal:
            return self._send_body_of(b"<html>Log in</html>", "text/html")
        if match := _LISTING.match(self.path):
            repo_id, revision, name = match[1], match[2] or "main", None
        elif match := _FILE.fullmatch(self.path):
            repo_id, revision, name = match[1], match[2], match[3]
        else:
            return self._refuse(404)
        repo = self.hub.repos.get(repo_id)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in ("", TOKEN):
            return self._refuse(401, message="Invalid credentials in Authorization header")
        if repo is None:
            return self._refuse(404 if token else 401, "RepoNotFound")
        if repo.gated and token != TOKEN and name is not None:
            return self._refuse(401, "GatedRepo")
        if revision.replace("%2F", "/") not in ("main", repo.commit):
            return self._refuse(404, "RevisionNotFound")
        if name is None:
            return self._list_tree(repo) if "/tree/" in self.path else self._list(repo_id, repo)
        if name not in repo.files:
            return self._refuse(404, "EntryNotFound")
        return self._send_file(repo, name)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        for header, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(header, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _list(self, repo_id: str, repo: Repo) -> None:
        siblings = []
        for name, data in repo.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": _git_digest(data)}
            if name.endswith(LARGE):
                entry["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        self._send_json({"id": repo_id, "sha": repo.commit, "siblings": siblings})

    def _list_tree(self, repo: Repo) -> None:
        """What the library asks for when it fetches whole snapshots."""
        tree = []
        for name, data in repo.files.items():
            entry: dict[str, Any] = {
                "type": "file",
                "path": name,
                "size": len(data),
                "oid": _git_digest(data),
            }
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 130}
            tree.append(entry)
        self._send_json(tree)

    def _send_json(self, content: Any) -> None:
        self._send_body_of(json.dumps(content).encode(), "application/json")

    def _send_body_of(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, repo: Repo, name: str) -> None:
        if name.endswith(LARGE):
            return self._redirect(repo, name)
        return self._send_content(repo, name, _git_digest(repo.files[name]))

    def _redirect(self, repo: Repo, name: str) -> None:
        data = repo.files[name]
        self.send_response(302)
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("X-Linked-Etag", f'"{_sha256(data)}"')
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Location", f"http://localhost:{self.server.server_address[1]}{_ELSEWHERE}{name}")  # type: ignore[str-bytes-safe]
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_large_file(self) -> None:
        name = self.path.removeprefix(_ELSEWHERE)
        if token := self.headers.get("Authorization"):
            self.hub.tokens_elsewhere.append(token)
        repo = next(repo for repo in self.hub.repos.values() if name in repo.files)
        self._send_content(repo, name, "of another host")

    def _send_content(self, repo: Repo, name: str, digest: str) -> None:
        data = repo.files[name]
        if name in self.hub.harmed:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int((self.headers.get("Range") or "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", repo.commit)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            self._send_body(name, data[start:])

    def _send_body(self, name: str, data: bytes) -> None:
        if cuts := self.hub.cut.get(name):
            self.wfile.write(data[: cuts.pop(0)])
            self.close_connection = True
        elif (held := self.hub.held.get(name)) is not None:
            self.wfile.write(data[:held])
            self.wfile.flush()
            self.hub.release.wait(60)
        else:
            self.wfile.write(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
