"""A model hub on loopback: API, small files, weights behind a redirect, and faults on demand."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@dataclass
class ModelHub:
    """State of the hub.

    Args:
        folder: files of the only model.
        model: its id.
        token: the token that a gated model requires; "" for an open model.
        limited: number of requests that are answered with 429 first.
        truncated: number of downloads of weights whose connection ends after half of the body.
        broken: names of weights whose downloads always end after half of the body.
        changed: names of files that are sent with other bytes of the same length.
        ranges: Range headers of downloads of weights.
        storage_tokens: Authorization headers that reached the host of the weights.
    """

    folder: Path
    model: str = "owner/model"
    token: str = ""
    limited: int = 0
    truncated: int = 0
    broken: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    storage_tokens: list[str] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def description(self) -> bytes:
        """Return the answer of the API, with the hashes of all files."""
        siblings = []
        for path in sorted(self.folder.iterdir()):
            content = path.read_bytes()
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            sibling: dict[str, object] = {
                "rfilename": path.name,
                "size": len(content),
                "blobId": blob,
            }
            if is_large(path.name):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        found = {"id": self.model, "modelId": self.model, "sha": COMMIT, "siblings": siblings}
        return json.dumps(found).encode()

    def content(self, name: str) -> bytes:
        """Return the bytes to send for a file."""
        content = (self.folder / name).read_bytes()
        return content[::-1] if name in self.changed else content


def is_large(name: str) -> bool:
    """Return True for files that the hub keeps in its storage."""
    return name.endswith((".safetensors", ".bin"))


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def do_GET(self) -> None:
        hub = self.hub
        hub.requests.append(f"{self.command} {self.path}")
        if hub.limited:
            hub.limited -= 1
            self._send(429, b"", {"Retry-After": "0"})
        elif hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._send(401, b"", {"X-Error-Message": "gated"})
        elif self.path.startswith(f"/api/models/{hub.model}"):
            self._send(200, hub.description(), {"Content-Type": "application/json"})
        elif match := re.fullmatch(rf"/{hub.model}/resolve/{COMMIT}/([^/?]+)", self.path):
            self._resolve(match[1])
        else:
            self._send(404, b"", {})

    do_HEAD = do_GET

    def _resolve(self, name: str) -> None:
        content = self.hub.content(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if is_large(name):
            true = (self.hub.folder / name).read_bytes()
            headers["X-Linked-Etag"] = f'"{hashlib.sha256(true).hexdigest()}"'
            headers["X-Linked-Size"] = str(len(true))
            headers["Location"] = f"{self.hub.storage_url}/{name}?Signature=secret"
            self._send(302, b"", headers)
        else:
            self._send(200, content, headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        pass


class _Storage(_Answer):
    def do_GET(self) -> None:
        hub, name = self.hub, self.path.partition("?")[0].lstrip("/")
        content, wanted = hub.content(name), self.headers.get("Range", "")
        hub.ranges.append(wanted)
        hub.storage_tokens += filter(None, [self.headers.get("Authorization")])
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", wanted)) else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if self.command == "GET" and (hub.truncated or name in hub.broken):
            hub.truncated = max(0, hub.truncated - 1)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.close_connection = True
        else:
            self._send(206 if start else 200, content[start:], headers if start else {})

    do_HEAD = do_GET


@contextmanager
def serving(hub: ModelHub) -> Iterator[ModelHub]:
    """Serve the hub and its storage on two ports of loopback."""
    with _listening(_Answer, hub) as hub.url, _listening(_Storage, hub) as hub.storage_url:
        yield hub


@contextmanager
def _listening(kind: type[_Answer], hub: ModelHub) -> Iterator[str]:
    class Handler(kind):  # type: ignore[misc, valid-type]
        pass

    Handler.hub = hub

    class Listener(ThreadingHTTPServer):
        daemon_threads = True

    with Listener(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()
