"""A hub on the loopback: as much of its interface as the real clients ask for, and faults on request."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet")


@dataclass
class Hub:
    """What a hub holds, what it does wrong and what it was asked.

    Attributes:
        repositories: ("models" | "datasets", name) -> (commit, file -> content).
        faults: pattern of "METHOD path" -> status to answer, or "drop" (the connection, in mid-file),
            "corrupt" (other bytes of the same length), "flip" (the last bit of the byte in the middle).
        log: "METHOD path" of all requests.
    """

    repositories: dict[tuple[str, str], tuple[str, dict[str, bytes]]] = field(default_factory=dict)
    faults: dict[str, int | str] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    url: str = ""

    def asked(self, pattern: str) -> list[str]:
        """Return the requests that match a pattern."""
        return [request for request in self.log if re.search(pattern, request)]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port of the loopback while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            request = f"{self.command} {self.path}"
            hub.log.append(request)
            faults = (fault for pattern, fault in hub.faults.items() if re.search(pattern, request))
            fault = next(faults, None)
            if isinstance(fault, int):
                gated = {"X-Error-Code": "GatedRepo"} if fault == 403 else {}
                return self.answer(b"", fault, gated)
            self.route(unquote(urlsplit(self.path).path), fault)

        do_HEAD = do_POST = do_GET  # noqa: N815 - the library's names

        def route(self, path: str, fault: Any) -> None:
            if path == "/":
                return self.answer(b"a hub")
            if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path):
                return self.describe(found[1], found[2], found[3] or "")
            if found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                kind = "datasets" if found[1] else "models"
                commit, files = hub.repositories.get((kind, found[2]), ("", {}))
                if commit and found[3] in ("main", commit) and found[4] in files:
                    return self.file(found[4], files[found[4]], commit, fault)
                return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
            return self.answer(b"", 404)

        def describe(self, kind: str, name: str, rest: str) -> None:
            commit, files = hub.repositories.get((kind, name), ("", {}))
            if not commit:
                return self.answer(b"", 404, {"X-Error-Code": "RepoNotFound"})
            if rest.startswith("/refs"):
                main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
                return self.json({"branches": [main], "tags": [], "converts": []})
            if rest.startswith(("/tree", "/paths-info")):
                below = re.fullmatch(r"/tree/[^/]+/(.+)", rest)
                if below and not any(file.startswith(below[1] + "/") for file in files):
                    return self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})
                return self.json(
                    [
                        {"type": "file", "path": file, "size": len(content), "oid": _tag(file, content)}
                        for file, content in files.items()
                    ]
                )
            siblings = [{"rfilename": file} for file in files]
            return self.json({"id": name, "sha": commit, "siblings": siblings, "private": False})

        def file(self, name: str, content: bytes, commit: str, fault: Any) -> None:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{_tag(name, content)}"', "Accept-Ranges": "bytes"}
            if fault == "corrupt":
                content = bytes(byte ^ 0x55 for byte in content)
            if fault == "flip":
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            if fault == "drop" and self.command == "GET":
                self.head(200, {**headers, "Content-Length": str(len(content))})
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.answer(content, 200, headers)

        def json(self, value: Any) -> None:
            self.answer(json.dumps(value).encode(), 200, {"Content-Type": "application/json"})

        def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if length:
                self.rfile.read(length)
            self.head(status, {**(headers or {}), "Content-Length": str(len(body))})
            if self.command != "HEAD":
                self.wfile.write(body)

        def head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler


def _tag(name: str, content: bytes) -> str:
    """Return what the cache of the clients names a file after: the sha256 of a large one, else git's sha1."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
