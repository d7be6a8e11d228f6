"""Controller loop that creates Deployments and Services and updates statuses."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import aiohttp

from infra.machine.cluster.policies.objects import Json
from infra.simulate.kserve import storage
from infra.simulate.kserve.objects import (
    NO_RUNTIME,
    app_label,
    deployment_of,
    name_of,
    reconcile_failed,
    service_of,
    status_of,
)

GROUP = "serving.kserve.io"
SERVICES = f"/apis/{GROUP}/v1beta1/inferenceservices"
ROUND_SECONDS = 0.5


class KubernetesApi(Protocol):
    """API calls of the controller."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json: ...
    async def apply(self, path: str, body: Json) -> Json: ...
    async def merge(self, path: str, body: Json) -> Json: ...


class Controller:
    """Controller of the InferenceServices in all namespaces.

    Args:
        initializer: image of the init container for models in object stores.
    """

    def __init__(self, api: KubernetesApi, initializer: str = "") -> None:
        self._api, self._initializer = api, initializer
        self._applied: dict[str, tuple[int, str]] = {}

    async def run(self) -> None:
        """Reconcile periodically until cancelled.

        Failed API calls are repeated in the next round.
        """
        while True:
            try:
                await self.reconcile_all()
            except (aiohttp.ClientError, TimeoutError) as error:
                print(f"retrying: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(ROUND_SECONDS)

    async def reconcile_all(self) -> None:
        """Reconcile all InferenceServices.

        The garbage collector removes objects of deleted services by owner reference.
        """
        for service in (await self._api.get(SERVICES))["items"]:
            if "deletionTimestamp" in service["metadata"]:
                continue
            status = await self._reconcile(service)
            if not status.items() <= service.get("status", {}).items():
                namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
                path = f"/apis/{GROUP}/v1beta1/namespaces/{namespace}/inferenceservices/{name}"
                await self._api.merge(f"{path}/status", {"status": status})

    async def _reconcile(self, service: Json) -> dict[str, Any]:
        namespace = service["metadata"]["namespace"]
        name = service["spec"]["predictor"]["model"]["runtime"]
        try:
            runtime = await self._api.get(
                f"/apis/{GROUP}/v1alpha1/namespaces/{namespace}/servingruntimes/{name}"
            )
        except aiohttp.ClientResponseError as error:
            return NO_RUNTIME if error.status == 404 else reconcile_failed(error.message)
        try:
            await self._apply_objects(service, runtime)
        except aiohttp.ClientResponseError as error:
            return reconcile_failed(error.message)
        deployment = await self._api.get(
            f"/apis/apps/v1/namespaces/{namespace}/deployments/{name_of(service)}"
        )
        ((key, value),) = app_label(service).items()
        pods = (
            await self._api.get(
                f"/api/v1/namespaces/{namespace}/pods", {"labelSelector": f"{key}={value}"}
            )
        )["items"]
        newest_first = sorted(
            pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True
        )
        return status_of(service, deployment, newest_first)

    async def _apply_objects(self, service: Json, runtime: Json) -> None:
        """Apply the objects after a change of the service or of the runtime."""
        wanted = (service["metadata"]["generation"], runtime["metadata"]["resourceVersion"])
        uid, namespace, name = (
            service["metadata"]["uid"],
            service["metadata"]["namespace"],
            name_of(service),
        )
        if self._applied.get(uid) == wanted:
            return
        deployments, services = (
            f"/apis/apps/v1/namespaces/{namespace}/deployments",
            f"/api/v1/namespaces/{namespace}/services",
        )
        made = deployment_of(
            service, runtime, self._initializer, await self._store_variables(service)
        )
        await self._api.apply(f"{deployments}/{name}", made)
        await self._api.apply(f"{services}/{name}", service_of(service, runtime))
        self._applied[uid] = wanted

    async def _store_variables(self, service: Json) -> list[dict[str, Any]]:
        """Return the variables for the download of a model from an object store.

        Raises:
            ClientResponseError: a secret of the service account is missing.
        """
        predictor = service["spec"]["predictor"]
        if not predictor["model"]["storageUri"].startswith(storage.SCHEME):
            return []
        core = f"/api/v1/namespaces/{service['metadata']['namespace']}"
        name = predictor.get("serviceAccountName", "default")
        account = await self._api.get(f"{core}/serviceaccounts/{name}")
        named = [each["name"] for each in account.get("secrets", ())]
        secrets = [await self._api.get(f"{core}/secrets/{name}") for name in named]
        return storage.store_variables(account, secrets)
