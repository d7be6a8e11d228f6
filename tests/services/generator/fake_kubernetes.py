"""Fake Kubernetes API with InferenceServices, behind TLS. The test plays KServe and sets statuses.

The API checks the current token, merges applied objects, lists by label, gets by name, and deletes
only with the matching uid.
"""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from cryptography import x509

from infra.machine.certificates.authority import Authority

NAMESPACE, CONFIG_MAP = "chat", "tw-thumbwheel-inference-service"
LABELS = {"app.kubernetes.io/instance": "tw", "app.kubernetes.io/component": "predictor"}
TEMPLATE: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {
        "generateName": "tw-thumbwheel-",
        "labels": LABELS,
        "annotations": {"given": "here"},
    },
    "spec": {
        "predictor": {
            "model": {"storageUri": "pvc://models/$(folder)", "args": ["--name=$(version)"]}
        }
    },
}
Json = dict[str, Any]


@dataclass
class FakeKubernetes:
    """State of the fake API.

    Args:
        objects: InferenceServices by name; the test sets their `status`.
        refusal: status and message of every response, if set.
        refused_at: HTTP method to which `refusal` is limited; empty for all.
    """

    objects: dict[str, Json] = field(default_factory=dict)
    template: Json = field(default_factory=lambda: json.loads(json.dumps(TEMPLATE)))
    candidate: Json | None = None
    token: str = "first"
    applied: list[Json] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    refused_at: str = ""
    has_kserve: bool = True
    uids: int = 0
    urls: list[str] = field(default_factory=list)

    def app(self) -> web.Application:
        services = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices"
        app = web.Application(middlewares=[self.checked])
        app.router.add_get(
            f"/api/v1/namespaces/{NAMESPACE}/configmaps/{CONFIG_MAP}", self.config_map
        )
        if self.has_kserve:
            app.router.add_get(services, self.list_objects)
            app.router.add_get(f"{services}/{{name}}", self.get_object)
            app.router.add_patch(f"{services}/{{name}}", self.apply)
            app.router.add_delete(f"{services}/{{name}}", self.delete)
        return app

    @web.middleware
    async def checked(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return status_response(401, "Unauthorized")
        if self.refusal and request.method.startswith(self.refused_at):
            return status_response(*self.refusal)
        try:
            return await handler(request)  # type: ignore[no-any-return]
        except web.HTTPNotFound:
            return status_response(404, "the server could not find the requested resource")

    async def config_map(self, request: web.Request) -> web.Response:
        data = {"inference-service.json": json.dumps(self.template)}
        if self.candidate is not None:
            data["candidate.json"] = json.dumps(self.candidate)
        return web.json_response({"metadata": {"name": CONFIG_MAP, "uid": "owner-1"}, "data": data})

    async def list_objects(self, request: web.Request) -> web.Response:
        selected = dict(pair.split("=") for pair in request.query["labelSelector"].split(","))
        items = [
            item
            for item in self.objects.values()
            if selected.items() <= item["metadata"]["labels"].items()
        ]
        return web.json_response({"items": items})

    async def get_object(self, request: web.Request) -> web.Response:
        return web.json_response(self.found(request))

    async def apply(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/apply-patch+yaml"
        assert (request.query["fieldManager"], request.query["force"]) == (
            "thumbwheel-generator",
            "true",
        )
        body, name = await request.json(), request.match_info["name"]
        self.applied.append(body)
        self.uids += 1
        existing = self.objects.get(name, {"metadata": {"uid": f"uid-{self.uids}"}})
        metadata = existing["metadata"] | body["metadata"]
        self.objects[name] = existing | body | {"metadata": metadata}
        return web.json_response(self.objects[name])

    async def delete(self, request: web.Request) -> web.Response:
        found, body = self.found(request), await request.json()
        if body["preconditions"]["uid"] != found["metadata"]["uid"]:
            return status_response(409, "the UID in the precondition does not match")
        self.deleted.append(found["metadata"]["name"])
        del self.objects[found["metadata"]["name"]]
        return web.json_response({"status": "Success"})

    def found(self, request: web.Request) -> Json:
        if request.match_info["name"] not in self.objects:
            raise web.HTTPNotFound
        return self.objects[request.match_info["name"]]

    def of_version(self, version: str) -> Json:
        (found,) = [
            item
            for item in self.objects.values()
            if item["metadata"].get("annotations", {}).get("thumbwheel/version") == version
        ]
        return found

    def versions(self) -> set[str]:
        return {
            item["metadata"]["annotations"]["thumbwheel/version"] for item in self.objects.values()
        }


def status_response(status: int, message: str) -> web.Response:
    return web.json_response(
        {"kind": "Status", "status": "Failure", "message": message}, status=status
    )


def ready(url: str) -> Json:
    """Return the status of a ready object in Standard mode; the generation is the Deployment's."""
    conditions = [
        {"type": kind, "status": "True"} for kind in ("IngressReady", "PredictorReady", "Ready")
    ]
    return {"observedGeneration": 1, "address": {"url": url}, "conditions": conditions}


def not_ready(reason: str, message: str = "", status: str = "False") -> Json:
    condition = {"status": status, "reason": reason, "message": message}
    return {"conditions": [{"type": kind, **condition} for kind in ("PredictorReady", "Ready")]}


def blocked(reason: str, message: str) -> Json:
    failure = {"reason": reason, "message": message, "exitCode": 1}
    return not_ready("MinimumReplicasUnavailable") | {
        "modelStatus": {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
    }


def kserve_settings(root: Path, url: str) -> Json:
    """Return the settings of a generator whose models are in `root` and whose API is at `url`."""
    return {
        "serving": "kserve",
        "inference_service": CONFIG_MAP,
        "models_root": root / "models",
        "kubernetes_url": url,
        "kubernetes_directory": root / "account",
    }


@asynccontextmanager
async def kubernetes_api(kubernetes: FakeKubernetes, directory: Path) -> AsyncIterator[str]:
    """Serve the API, write the files of a service account, and yield the URL."""
    authority = Authority.create(days=1)
    pair = authority.sign(x509.Name([]), [x509.DNSName("localhost")], days=1)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.crt").write_bytes(authority.pair.certificate)
    (directory / "token").write_text(f"{kubernetes.token}\n")
    (directory / "namespace").write_text(NAMESPACE)
    (directory / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")
    runner = web.AppRunner(kubernetes.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    kubernetes.urls.append(f"https://localhost:{runner.addresses[0][1]}")
    try:
        yield kubernetes.urls[-1]
    finally:
        await runner.cleanup()
