"""A read-only OCI registry on loopback, which serves image archives by tag and digest."""

import json
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Registry:
    """Content of the registry (distribution-spec 1.1, pull only).

    Args:
        blobs: manifests, configs and layers by digest.
        media_types: media types of manifests by digest.
        tags: digests of manifests by name and tag.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    media_types: dict[str, str] = field(default_factory=dict)
    tags: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def add(self, archive: Path, name: str, tag: str) -> str:
        """Add the image of an OCI archive and return the digest of its manifest."""
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.name.startswith("blobs/sha256/"):
                    content = tar.extractfile(member)
                    assert content is not None
                    self.blobs[f"sha256:{member.name.rpartition('/')[2]}"] = content.read()
            index = tar.extractfile("index.json")
            assert index is not None
            (entry,) = json.load(index)["manifests"]
        digest = str(entry["digest"])
        self.media_types[digest] = entry["mediaType"]
        self.tags[name, tag] = digest
        return digest

    def answer(self, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body of a GET request."""
        if path == "/v2/":
            return 200, {"Content-Type": "application/json"}, b"{}"
        name, _, rest = path.removeprefix("/v2/").rpartition("/manifests/")
        if name:
            digest = self.tags.get((name, rest), rest)
            if digest in self.media_types:
                kind = self.media_types[digest]
                headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
                return 200, headers, self.blobs[digest]
        name, _, digest = path.removeprefix("/v2/").rpartition("/blobs/")
        if name and digest in self.blobs:
            headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
            return 200, headers, self.blobs[digest]
        if path.endswith("/tags/list"):
            name = path.removeprefix("/v2/").removesuffix("/tags/list")
            listed = {"name": name, "tags": [tag for each, tag in self.tags if each == name]}
            return 200, {"Content-Type": "application/json"}, json.dumps(listed).encode()
        return 404, {"Content-Type": "application/json"}, b'{"errors":[{"code":"NOT_FOUND"}]}'


@contextmanager
def registry() -> Iterator[Registry]:
    """Run an empty registry until the end of the block."""
    state = Registry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append(self.path)
            status, headers, body = state.answer(self.path.partition("?")[0])
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
