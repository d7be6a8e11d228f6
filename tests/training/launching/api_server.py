"""Fake API server over HTTP: objects by name, conflicts, preconditions; tests play KubeRay."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from training.launching.kubernetes import KubernetesTarget

NAMESPACE, TOKEN = "chat", "a-token"


class ApiServer:
    """Objects by kind and name.

    `refusals` are returned once each, before anything else. Fields of a spec in `unknown_fields`
    are dropped, or refused if the caller asks for strict validation, as the API server does.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refusals: list[tuple[int, str]] = []
        self.unknown_fields: frozenset[str] = frozenset()
        self._made = 0

    def put(self, kind: str, name: str, **fields: Any) -> dict[str, Any]:
        """Store an object as if by another client."""
        self._made += 1
        about = {
            "name": name,
            "uid": f"uid-{self._made}",
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **fields.pop("metadata", {}),
        }
        self.objects[kind, name] = {"metadata": about, "spec": {}, **fields}
        return self.objects[kind, name]

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        split = urlsplit(path)
        group, _, rest = split.path.strip("/").partition(f"/namespaces/{NAMESPACE}/")
        plural, _, name = rest.partition("/")
        kind = f"{group}/{plural}"
        self.calls.append(f"{method} {plural}" + (f"/{name}" if name else ""))
        if self.refusals:
            status, message = self.refusals.pop(0)
            return status, {"message": message}
        if method == "POST":
            strict = parse_qs(split.query).get("fieldValidation") == ["Strict"]
            return self._create(kind, body, strict)
        if not name:
            asked = parse_qs(split.query)
            found = [each for (of, _), each in self.objects.items() if of == kind]
            if "fieldSelector" in asked:
                wanted = dict(each.split("=") for each in asked["fieldSelector"][0].split(","))
                about = {
                    "kind": wanted["involvedObject.kind"],
                    "name": wanted["involvedObject.name"],
                }
                return 200, {"items": [each for each in found if each["involvedObject"] == about]}
            key, _, value = asked["labelSelector"][0].partition("=")
            return 200, {
                "items": [
                    each for each in found if each["metadata"].get("labels", {}).get(key) == value
                ]
            }
        if (kind, name) not in self.objects:
            return 404, {"message": "not found"}
        return 200, self.objects[kind, name] if method == "GET" else self._delete(kind, name, body)

    def _create(self, kind: str, body: Any, strict: bool) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        unknown = self.unknown_fields & body["spec"].keys()
        if unknown and strict:
            return 400, {"message": f"strict decoding error: unknown field spec.{min(unknown)}"}
        body["spec"] = {key: each for key, each in body["spec"].items() if key not in unknown}
        if (kind, name) in self.objects:
            return 409, {"message": "already exists"}
        return 201, self.put(kind, name, metadata=body["metadata"], spec=body["spec"])

    def _delete(self, kind: str, name: str, body: Any) -> Any:
        assert body["propagationPolicy"] == "Foreground"
        if body["preconditions"]["uid"] == self.objects[kind, name]["metadata"]["uid"]:
            return self.objects.pop((kind, name))
        return {}


@contextmanager
def serving(server: ApiServer, folder: Path) -> Iterator[KubernetesTarget]:
    """Serve on loopback; yield the folder with the account of a pod."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            assert self.headers["Authorization"] == f"Bearer {TOKEN}"
            length = int(self.headers.get("Content-Length", 0))
            status, said = server.answer(
                self.command, self.path, json.loads(self.rfile.read(length)) if length else None
            )
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = _reply

        def log_message(self, *_: object) -> None:
            """Suppress the log of http.server."""

    (folder / "namespace").write_text(NAMESPACE)
    (folder / "token").write_text(TOKEN + "\n")
    door = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=door.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield KubernetesTarget(f"http://127.0.0.1:{door.server_port}", folder)
    finally:
        door.shutdown()
        thread.join()
        door.server_close()
