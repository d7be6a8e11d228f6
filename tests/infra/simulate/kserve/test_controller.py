"""Reconciliation by the controller with an API in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import pytest

from infra.simulate.kserve.controller import SERVICES, Controller
from tests.infra.simulate.kserve.deployments import (
    AVAILABLE,
    BEGINNING,
    FALLEN,
    RUNNING,
    runtime,
    service,
)

Json = dict[str, Any]


@dataclass
class Api:
    """API with a single InferenceService and its `deployment` and `pods`."""

    services: list[Json] = field(default_factory=lambda: [service()])
    runtimes: dict[str, Json] = field(
        default_factory=lambda: {runtime()["metadata"]["name"]: runtime()}
    )
    deployment: Json = field(default_factory=lambda: BEGINNING)
    pods: list[Json] = field(default_factory=list)
    applied: list[Json] = field(default_factory=list)
    merges: int = 0
    refusal: str = ""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        last = path.rsplit("/", 1)[1]
        if path == SERVICES:
            return {"items": self.services}
        if "/servingruntimes/" in path:
            if last not in self.runtimes:
                raise error(404, "not found")
            return self.runtimes[last]
        return {"items": self.pods} if last == "pods" else self.deployment

    async def apply(self, path: str, body: Json) -> Json:
        if self.refusal:
            raise error(403, self.refusal)
        self.applied.append(body)
        return body

    async def merge(self, path: str, body: Json) -> Json:
        self.merges += 1
        (found,) = self.services
        found["status"] = found.get("status", {}) | body["status"]
        return found


def error(status: int, message: str) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(cast(Any, None), (), status=status, message=message)


def conditions(api: Api) -> dict[str, str]:
    return {each["type"]: each["status"] for each in api.services[0]["status"]["conditions"]}


async def test_objects_are_applied_once_and_status_is_updated() -> None:
    api = Api()
    controller = Controller(api)
    await controller.reconcile_all()
    assert [each["kind"] for each in api.applied] == ["Deployment", "Service"]
    assert conditions(api)["Ready"] == "False"
    api.deployment, api.pods = AVAILABLE, [RUNNING]
    await controller.reconcile_all()
    assert set(conditions(api).values()) == {"True"}
    await controller.reconcile_all()
    assert (len(api.applied), api.merges) == (2, 2), "nothing changed, so nothing is written"


async def test_changed_service_or_runtime_is_applied_again() -> None:
    api = Api()
    controller = Controller(api)
    await controller.reconcile_all()
    api.services[0]["metadata"]["generation"] = 2
    await controller.reconcile_all()
    assert len(api.applied) == 4
    changed = runtime()
    changed["metadata"]["resourceVersion"] = "8"
    api.runtimes[changed["metadata"]["name"]] = changed
    await controller.reconcile_all()
    assert len(api.applied) == 6


async def test_newest_pod_determines_the_status() -> None:
    older = {**FALLEN, "metadata": {"creationTimestamp": "2026-11-25T00:00:00Z"}}
    api = Api(pods=[older, RUNNING])
    await Controller(api).reconcile_all()
    assert api.services[0]["status"]["modelStatus"]["transitionStatus"] == "InProgress"


async def test_missing_runtime_is_reported_until_created() -> None:
    api = Api(runtimes={})
    controller = Controller(api)
    await controller.reconcile_all()
    assert (
        api.services[0]["status"]["modelStatus"]["lastFailureInfo"]["reason"]
        == "RuntimeNotRecognized"
    )
    api.runtimes = {runtime()["metadata"]["name"]: runtime()}
    await controller.reconcile_all()
    assert len(api.applied) == 2


@pytest.mark.parametrize("message", ["exceeded quota", "violates PodSecurity"])
async def test_rejected_change_is_reported(message: str) -> None:
    api = Api(refusal=message)
    await Controller(api).reconcile_all()
    told = api.services[0]["status"]["conditions"][1]
    assert (told["reason"], told["message"]) == ("ReconcileFailed", message)


async def test_deleted_service_is_ignored() -> None:
    going = service()
    going["metadata"]["deletionTimestamp"] = "2026-11-26T00:00:00Z"
    api = Api(services=[going])
    await Controller(api).reconcile_all()
    assert (api.applied, api.merges) == ([], 0)
