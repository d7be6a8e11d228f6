"""Versions as KServe InferenceServices, one object for each version.

An alternative to `HttpModelServer`, with the same Protocols `ModelRepository` and `ChatServer`.
Replicas need no leader, since all apply the same object and KServe does the rest. Only objects with
this release's labels are changed. Objects of retired versions are deleted at once, and their pods
finish running answers first.

A version that is an adapter of another one may have no object: the server of its base answers for
it (adapters.py).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import fields
from services.generator.answering.engine import Timeouts
from services.generator.answering.model_server import Completions
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk
from services.generator.kubernetes.adapters import Adapters, BaseAdapter
from services.generator.kubernetes.api import KubernetesApi
from services.generator.kubernetes.inference_object import (
    InvalidTemplateError,
    Observed,
    Template,
    inference_service,
    is_owned,
    model_folder,
    object_name,
    observe,
    read_template,
)
from services.generator.metrics import KUBERNETES_UP

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# A restarted container may still load its model. A failure that lasts longer is reported.
FAILING_SECONDS = 3.0
OBJECTS = "inferenceservices"
PROBE_TEXT = "a"
NO_KSERVE = "the cluster has no InferenceServices; check that KServe is installed"


@dataclass(frozen=True)
class Release:
    """Location of the release in the cluster.

    Args:
        namespace: namespace of the release.
        config_map: ConfigMap with the template of the InferenceServices.
        models_root: mount point of the models' claim in this container.
        port: port of the model servers; 0 takes the port of KServe's status.
        max_adapter_rank: highest rank of adapters at the server of their base; 0: each version has
            an object of its own.
    """

    namespace: str
    config_map: str
    models_root: Path
    port: int = 0
    max_adapter_rank: int = 0


class InferenceServices:
    """All versions of one release.

    The HTTP session is for the model servers and has a timeout for connecting. `is_small` says
    which versions get the template of small candidates.
    """

    def __init__(
        self,
        api: KubernetesApi,
        http: aiohttp.ClientSession,
        release: Release,
        timeouts: Timeouts,
        load_seconds: float,
    ) -> None:
        self._api = api
        self._http = http
        self._release = release
        self._timeouts = timeouts
        self._load_seconds = load_seconds
        self.is_small: Callable[[str], bool] = lambda version: False
        self._template: Template | None = None
        self._known: Mapping[str, Observed] = {}
        self._api_unavailable = False
        self._servers: dict[str, Completions] = {}
        self._adapters = Adapters(release.models_root, release.max_adapter_rank)

    async def index(self) -> Mapping[str, bool]:
        """Return for each version True if its server answers.

        Raises:
            UnavailableError, FailedPreconditionError: the API fails, and no version is known yet.
        """
        try:
            found = await self._list()
        except ServiceError as error:
            KUBERNETES_UP.labels(OBJECTS).set(0)
            if not self._known:
                raise
            # The model servers do not need the Kubernetes API. Chats must continue during an
            # upgrade of Kubernetes.
            if not self._api_unavailable:
                log.warning("kubernetes api unavailable", extra=fields(reason=error.reason))
            self._api_unavailable = True
        else:
            self._api_unavailable = False
            KUBERNETES_UP.labels(OBJECTS).set(1)
            self._known = {item.version: item for item in found}
            self._servers = {
                version: server
                for version, server in self._servers.items()
                if version in self._known
            }
        known = list(self._known.values())
        serving_flags = await asyncio.gather(*(self._is_serving(item) for item in known))
        index = {item.version: serving for item, serving in zip(known, serving_flags, strict=True)}
        adapters = [
            (version, adapter)
            for version, adapter in self._adapters.loaded.items()
            if adapter.base in index and version not in index
        ]
        answering = await asyncio.gather(
            *(self._is_answering(adapter, index[adapter.base]) for _, adapter in adapters)
        )
        return index | dict(zip((version for version, _ in adapters), answering, strict=True))

    async def load(self, version: str, directory: str) -> None:
        """Apply the object and return when its server answers.

        For an adapter the object is that of the base.

        Raises:
            FailedPreconditionError: KServe reports a failed load, the version is not ready in time,
                or the server of its base refuses the adapter.
            UnavailableError: the API does not answer, or an earlier object of the version still
                terminates.
        """
        folder = model_folder(self._release.models_root, directory)
        # An object of the version from before the base was shared continues to serve.
        adapter = None
        if version not in self._known:
            adapter = await self._adapters.find(version, folder)
        if adapter is None:
            await self._load_object(version, folder)
            return
        await self._load_object(adapter.base, adapter.base)
        await self._load_adapter(version, adapter)

    async def load_missing(self, version: str, directory: str) -> None:
        """Do nothing: KServe starts each replica of a version with that version."""

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Return the versions of which the wanted ones are adapters."""
        return await self._adapters.bases(wanted, self._known)

    async def _load_object(self, version: str, folder: str) -> None:
        template = (await self._read_template()).sized(self.is_small(version))
        path = f"{self._path(template)}/{object_name(template, version)}"
        with suppress(NotFoundError):
            existing = await self._api.get(path)
            name = existing["metadata"]["name"]
            if not is_owned(template, existing):
                raise FailedPreconditionError(
                    f"the InferenceService {name} exists and belongs to another release",
                    reason="EXISTS",
                    field=name,
                )
            if "deletionTimestamp" in existing["metadata"]:
                raise UnavailableError(
                    f"the InferenceService {name} is still terminating",
                    reason="MODEL_SERVER_BUSY",
                    field=name,
                )
        await self._api.apply(path, inference_service(template, version, folder))
        await self._wait_until_serving(path)

    async def unload(self, version: str) -> None:
        """Request the deletion of the object; return before the object is gone.

        An adapter gets no further requests, and vLLM replaces it by the next ones: a call for its
        removal would reach one of several pods.

        Raises:
            UnavailableError: the API does not answer.
            NotFoundError: there is no object of this version.
        """
        is_adapter = self._adapters.loaded.pop(version, None) is not None
        observed = self._known.get(version)
        if observed is None:
            if is_adapter:
                return
            raise NotFoundError("there is no InferenceService of this version")
        await self._api.delete(
            f"{self._path(self._template or await self._read_template())}/{observed.name}",
            observed.uid,
        )

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None:
        """Return the version's tokenizer_config.json, see `Completions.tokenizer_info`."""
        server, model = self._server_of(version)
        return await server.tokenizer_info(model) if server else None

    async def tokenize(self, version: str, text: str) -> list[int] | None:
        """Return the token ids of a text, see `Completions.tokenize`."""
        server, model = self._server_of(version)
        return await server.tokenize(model, text) if server else None

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer`, see `Completions.answer`.

        Raises:
            NotFoundError: no InferenceService of the version is known.
        """
        server, model = self._server_of(version)
        if server is None:
            raise NotFoundError("no InferenceService serves this version")
        await server.answer(model, messages, sampling, on_chunk)

    def _server_of(self, version: str) -> tuple[Completions | None, str]:
        """Return the server of a version, and the name of the version there."""
        adapter = self._adapters.loaded.get(version)
        if adapter is not None and version not in self._known:
            return self._servers.get(adapter.base), adapter.model
        return self._servers.get(version), version

    async def _list(self) -> Sequence[Observed]:
        template = self._template or await self._read_template()
        selector = ",".join(f"{key}={value}" for key, value in sorted(template.identity.items()))
        try:
            listed = await self._api.get(self._path(template), {"labelSelector": selector})
        except NotFoundError as error:
            raise FailedPreconditionError(NO_KSERVE, reason="NO_KSERVE") from error
        found = [
            observe(item, self._release.port)
            for item in listed["items"]
            if is_owned(template, item)
        ]
        if any(
            item.template != template.sized(self.is_small(item.version)).digest for item in found
        ):
            # Apply the present template to objects that were made from another one. The template is
            # read again first: during a rolling upgrade an object with another digest may be newer
            # than the cached template.
            current_template = await self._read_template()
            for item in found:
                sized = current_template.sized(self.is_small(item.version))
                if item.template != sized.digest and not item.deleting:
                    body = inference_service(sized, item.version, item.folder)
                    await self._api.apply(f"{self._path(current_template)}/{item.name}", body)
                    log.info("inference service updated", extra=fields(version=item.version))
        return found

    async def _read_template(self) -> Template:
        path = f"/api/v1/namespaces/{self._release.namespace}/configmaps/{self._release.config_map}"
        try:
            self._template = read_template(await self._api.get(path))
        except (NotFoundError, InvalidTemplateError) as error:
            text = (
                f"the chart's ConfigMap {self._release.config_map} is missing, "
                "or holds no InferenceService"
            )
            raise FailedPreconditionError(
                text, reason="NO_TEMPLATE", field=self._release.config_map
            ) from error
        return self._template

    async def _wait_until_serving(self, path: str) -> None:
        unmet_condition, waiting_reason, failing_since = "", "", None
        try:
            async with asyncio.timeout(self._load_seconds):
                while True:
                    try:
                        observed = observe(await self._api.get(path), self._release.port)
                    except NotFoundError as error:
                        raise UnavailableError(
                            "the InferenceService was deleted while it loaded",
                            reason="MODEL_SERVER_BUSY",
                        ) from error
                    if await self._is_serving(observed):
                        return
                    now = time.monotonic()
                    failing_since = (failing_since or now) if observed.failure else None
                    if failing_since is not None and now >= failing_since + FAILING_SECONDS:
                        raise FailedPreconditionError(
                            observed.failure, reason="LOAD_FAILED", field=observed.name
                        )
                    unmet_condition, waiting_reason = (
                        observed.unmet_condition,
                        observed.failure or observed.waiting_reason,
                    )
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            limit = f"{self._load_seconds:g} s"
            raise FailedPreconditionError(
                f"not ready after {limit}: {waiting_reason}",
                reason="NOT_READY",
                field=unmet_condition,
                limit=limit,
            ) from error

    async def _load_adapter(self, version: str, adapter: BaseAdapter) -> None:
        """Let the server of the base read the adapter, as a first request does in every pod.

        Raises:
            FailedPreconditionError: the server refuses the adapter.
            UnavailableError: the server does not answer.
        """
        self._adapters.loaded[version] = adapter
        server, model = self._server_of(version)
        try:
            # vLLM reads the adapter also for a request without an answer.
            if server is not None and await server.tokenize(model, PROBE_TEXT) is not None:
                return
        except InvalidArgumentError:
            pass  # found, but not loaded
        except UnavailableError:
            del self._adapters.loaded[version]
            raise
        del self._adapters.loaded[version]
        raise FailedPreconditionError(
            f"the server of {adapter.base} does not load {model}; its log has the reason",
            reason="ADAPTER_REFUSED",
            field=model,
        )

    async def _is_answering(self, adapter: BaseAdapter, is_base_serving: bool) -> bool:
        """Return True if the server of the base, which must be serving, knows the adapter.

        The request goes to any pod of the base, so that each of them reads the adapter.
        """
        server = self._servers.get(adapter.base)
        if not is_base_serving or server is None:
            return False
        try:
            return await server.tokenize(adapter.model, PROBE_TEXT) is not None
        except UnavailableError:
            return True  # busy: the server has just answered the probe of its base
        except ServiceError:
            return False

    async def _is_serving(self, observed: Observed) -> bool:
        """Return True if the server lists the version, as only a ready pod does.

        If the server hangs, its pending answers fail.
        """
        if observed.deleting or not observed.url:
            return False
        server = self._servers.get(observed.version)
        if server is None or server.url != observed.url:
            server = self._servers[observed.version] = Completions(
                self._http, observed.url, self._timeouts
            )
        try:
            async with (
                asyncio.timeout(self._timeouts.hang_seconds),
                self._http.get(f"{server.url}/v1/models") as response,
            ):
                models = await response.json()
            served = response.status == 200 and observed.version in {
                item["id"] for item in models["data"]
            }
        except TimeoutError:
            index = server.probe_failed() or {}
        except (aiohttp.ClientError, ValueError, KeyError, TypeError):
            server.probe_failed()
            return False
        else:
            index = server.probe_succeeded({observed.version: served})
        return index.get(observed.version, False)

    def _path(self, template: Template) -> str:
        group = template.manifest["apiVersion"]
        return f"/apis/{group}/namespaces/{self._release.namespace}/{OBJECTS}"
