"""Kubernetes API with given objects, read by the function `lookup` of Helm."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.charts.rendering import Object

MISSING = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"}


@contextmanager
def serving(objects: Sequence[Object], kinds: Sequence[Object]) -> Iterator[str]:
    """Yield the URL of an API with these objects, in the namespace `chat`.

    Args:
        kinds: objects of all kinds that the API knows; Helm refuses to render others.
    """
    contents = {**discovery([*objects, *kinds]), **listed(objects)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = contents.get(self.path.partition("?")[0])
            content = json.dumps(found or {**MISSING, "code": 404}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def discovery(objects: Sequence[Object]) -> dict[str, Any]:
    """Return the paths from which clients learn the kinds of the API."""
    kinds = defaultdict[str, set[str]](set)
    for item in objects:
        kinds[item["apiVersion"]].add(item["kind"])
    groups = [
        {"name": version.partition("/")[0], "versions": [names], "preferredVersion": names}
        for version in kinds
        if "/" in version
        for names in [{"groupVersion": version, "version": version.partition("/")[2]}]
    ]
    return {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
    } | {
        folder(version): {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [
                {"name": plural(kind), "kind": kind, "namespaced": True, "verbs": ["get", "list"]}
                for kind in sorted(found)
            ],
        }
        for version, found in kinds.items()
    }


def listed(objects: Sequence[Object]) -> dict[str, Any]:
    """Return the paths of the objects and of the lists of each kind."""
    contents: dict[str, Any] = {}
    for item in objects:
        path = f"{folder(item['apiVersion'])}/namespaces/chat/{plural(item['kind'])}"
        contents[f"{path}/{item['metadata']['name']}"] = item
        empty = {"kind": f"{item['kind']}List", "apiVersion": item["apiVersion"], "items": []}
        contents.setdefault(path, empty)["items"].append(item)
    return contents


def folder(version: str) -> str:
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def plural(kind: str) -> str:
    return f"{kind.lower()}s"
