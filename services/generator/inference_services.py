"""Versions as KServe InferenceServices, one for each: the other `ModelRepository` and `ChatServer`
beside `HttpModelServer`.

Replicas need no leader here either: they apply the same object, and KServe does the rest. Only what
carries this release's labels is ever touched. What is retired is deleted at once; its pods let
answers end before they go.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import aiohttp

from services.chassis.errors import (
    FailedPreconditionError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import fields
from services.generator.completions import Completions
from services.generator.engine import Message, Patience
from services.generator.inference_object import (
    NotATemplateError,
    Observed,
    Template,
    inference_service,
    is_ours,
    object_name,
    observe,
    read_template,
)
from services.generator.kubernetes_api import Json
from services.generator.metrics import KUBERNETES_UP
from services.generator.presets import Sampling
from services.generator.sse import Piece

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
# A container that fell and rises again may still load; one that fails for longer is told to whoever
# waits.
FAILING_SECONDS = 3.0
OBJECTS = "inferenceservices"
NO_KSERVE = "the cluster has no InferenceServices: is KServe installed?"


class Objects(Protocol):
    """See `kubernetes_api.KubernetesApi`."""

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json: ...
    async def apply(self, path: str, body: Json) -> Json: ...
    async def delete(self, path: str, uid: str) -> None: ...


@dataclass(frozen=True)
class Place:
    """Where the release is: its namespace, the ConfigMap with its InferenceService, where its
    models are mounted here.

    `port` is the model servers'; 0 leaves it to KServe's status.
    """

    namespace: str
    config_map: str
    models_root: Path
    port: int = 0


class InferenceServices:
    """All versions of one release; the session is for the model servers, with a timeout for
    connecting.
    """

    def __init__(
        self,
        api: Objects,
        http: aiohttp.ClientSession,
        place: Place,
        patience: Patience,
        load_seconds: float,
    ) -> None:
        self._api = api
        self._http = http
        self._place = place
        self._patience = patience
        self._load_seconds = load_seconds
        self._template: Template | None = None
        self._known: Mapping[str, Observed] = {}
        self._is_away = False
        self._servers: dict[str, Completions] = {}

    async def index(self) -> Mapping[str, bool]:
        """Version → whether it answers. Raises: UnavailableError, FailedPreconditionError, while no
        version is known yet.
        """
        try:
            found = await self._list()
        except ServiceError as error:
            KUBERNETES_UP.labels(OBJECTS).set(0)
            if not self._known:
                raise
            # Who answers needs no Kubernetes: chats must outlive its upgrade.
            if not self._is_away:
                log.warning("kubernetes cannot be asked", extra=fields(reason=error.reason))
            self._is_away = True
        else:
            self._is_away = False
            KUBERNETES_UP.labels(OBJECTS).set(1)
            self._known = {each.version: each for each in found}
            self._servers = {
                version: server
                for version, server in self._servers.items()
                if version in self._known
            }
        known = list(self._known.values())
        answers = await asyncio.gather(*(self._answers(each) for each in known))
        return {each.version: answering for each, answering in zip(known, answers, strict=True)}

    async def load(self, version: str, directory: str) -> None:
        """Returns when it answers.

        Raises:
            FailedPreconditionError: it does not load, KServe says why; or it is not ready in time.
            UnavailableError: the API is away, or an object of that version is still going.
        """
        template, folder = await self._read_template(), self._folder(directory)
        path = f"{self._path(template)}/{object_name(template, version)}"
        await self._refuse_foreign(template, path)
        await self._api.apply(path, inference_service(template, version, folder))
        await self._until_it_answers(path)

    async def unload(self, version: str) -> None:
        """Returns when it is going. Raises: UnavailableError, NotFoundError."""
        observed = self._known.get(version)
        if observed is None:
            raise NotFoundError("there is no InferenceService of this version")
        await self._api.delete(
            f"{self._path(self._template or await self._read_template())}/{observed.name}",
            observed.uid,
        )

    async def answer(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        take: Callable[[Piece], None],
    ) -> None:
        """See `Completions.answer`. Raises also: NotFoundError if no InferenceService of the
        version is known.
        """
        server = self._servers.get(version)
        if server is None:
            raise NotFoundError("no InferenceService answers for this version")
        await server.answer(version, messages, sampling, take)

    async def _list(self) -> Sequence[Observed]:
        template = self._template or await self._read_template()
        selector = ",".join(f"{key}={value}" for key, value in sorted(template.identity.items()))
        try:
            listed = await self._api.get(self._path(template), {"labelSelector": selector})
        except NotFoundError as error:
            raise FailedPreconditionError(NO_KSERVE, reason="NO_KSERVE") from error
        found = [
            observe(each, self._place.port) for each in listed["items"] if is_ours(template, each)
        ]
        await self._bring_up_to_date(template, found)
        return found

    async def _read_template(self) -> Template:
        path = f"/api/v1/namespaces/{self._place.namespace}/configmaps/{self._place.config_map}"
        try:
            self._template = read_template(await self._api.get(path))
        except (NotFoundError, NotATemplateError) as error:
            text = f"the ConfigMap {self._place.config_map} of the chart is not there, or holds no InferenceService"
            raise FailedPreconditionError(
                text, reason="NO_TEMPLATE", field=self._place.config_map
            ) from error
        return self._template

    async def _bring_up_to_date(self, template: Template, found: Sequence[Observed]) -> None:
        """What another release of the chart wrote. Asked anew, as what differs may be newer than
        what we know: an upgrade rolls.
        """
        if all(each.template == template.digest for each in found):
            return
        fresh = await self._read_template()
        for each in found:
            if each.template != fresh.digest and not each.going:
                body = inference_service(fresh, each.version, each.folder)
                await self._api.apply(f"{self._path(fresh)}/{each.name}", body)
                log.info("inference service brought up to date", extra=fields(version=each.version))

    async def _refuse_foreign(self, template: Template, path: str) -> None:
        try:
            standing = await self._api.get(path)
        except NotFoundError:
            return
        name = standing["metadata"]["name"]
        if not is_ours(template, standing):
            raise FailedPreconditionError(
                f"the InferenceService {name} is there, and is not this release's",
                reason="EXISTS",
                field=name,
            )
        if "deletionTimestamp" in standing["metadata"]:
            raise UnavailableError(
                f"the InferenceService {name} is still going",
                reason="MODEL_SERVER_BUSY",
                field=name,
            )

    async def _until_it_answers(self, path: str) -> None:
        lacks, waits_for, failing_since = "", "", None
        try:
            async with asyncio.timeout(self._load_seconds):
                while True:
                    observed = await self._look(path)
                    if await self._answers(observed):
                        return
                    now = time.monotonic()
                    failing_since = (failing_since or now) if observed.failure else None
                    if failing_since is not None and now >= failing_since + FAILING_SECONDS:
                        raise FailedPreconditionError(
                            observed.failure, reason="LOAD_FAILED", field=observed.name
                        )
                    lacks, waits_for = observed.lacks, observed.failure or observed.waits_for
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError as error:
            limit = f"{self._load_seconds:g} s"
            raise FailedPreconditionError(
                f"not ready after {limit}: {waits_for}",
                reason="NOT_READY",
                field=lacks,
                limit=limit,
            ) from error

    async def _look(self, path: str) -> Observed:
        try:
            return observe(await self._api.get(path), self._place.port)
        except NotFoundError as error:
            raise UnavailableError(
                "somebody has removed the InferenceService", reason="MODEL_SERVER_BUSY"
            ) from error

    async def _answers(self, observed: Observed) -> bool:
        """Whether its server says so itself, as only a pod that is ready can; what waits for a
        silent one waits no more.
        """
        if observed.going or not observed.url:
            return False
        server = self._servers.get(observed.version)
        if server is None or server.url != observed.url:
            server = self._servers[observed.version] = Completions(
                self._http, observed.url, self._patience
            )
        try:
            async with (
                asyncio.timeout(self._patience.hang_seconds),
                self._http.get(f"{server.url}/v1/models") as response,
            ):
                models = await response.json()
            served = response.status == 200 and observed.version in {
                each["id"] for each in models["data"]
            }
        except TimeoutError:
            said = server.not_heard() or {}
        except (aiohttp.ClientError, ValueError, KeyError, TypeError):
            server.not_heard()
            return False
        else:
            said = server.heard({observed.version: served})
        return said.get(observed.version, False)

    def _folder(self, directory: str) -> str:
        try:
            folder = PurePosixPath(directory).relative_to(self._place.models_root)
        except ValueError as error:
            raise FailedPreconditionError(
                f"the directory lies outside of {self._place.models_root}, where the models' claim is",
                field="directory",
                reason="OUT_OF_RANGE",
                limit=str(self._place.models_root),
            ) from error
        if ".." in folder.parts or not folder.parts:
            raise FailedPreconditionError(
                "the directory must be a folder of the models' claim",
                field="directory",
                reason="MALFORMED",
                limit=str(self._place.models_root),
            )
        return str(folder)

    def _path(self, template: Template) -> str:
        return f"/apis/{template.api_version}/namespaces/{self._place.namespace}/inferenceservices"
