"""The loaded versions, each with its vLLM process.

Loading and unloading follow KServe's repository extension, as in the predictor. A process that ends
by itself is reported, and its version is no longer listed: the generator's reconcile loop then
loads the version again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.run.vllm_server.process import VllmProcess
from services.chassis.telemetry import fields
from services.predictor.errors import (
    PredictorError,
    UnavailableError,
    VersionConflictError,
    VersionInUseError,
    VersionNotFoundError,
)
from services.predictor.manifest import manifest_digest
from services.predictor.repository_entry import IndexEntry, State, check_load_request

log = logging.getLogger(__name__)
DRAIN_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class VersionLimits:
    """Limits of the loaded versions.

    Args:
        max_versions: versions at once.
        load_seconds: time for the start of a process.
        drain_seconds: time for running answers at unload and shutdown.
    """

    max_versions: int
    load_seconds: float
    drain_seconds: float


@dataclass(eq=False)
class ServedVersion:
    """A version with its process and the number of its running requests."""

    name: str
    directory: Path
    digest: str
    process: VllmProcess
    state: State = State.LOADING
    reason: str = "vLLM starts"
    ready_at: int = 0
    running: int = 0
    # The load; after its success the wait for the end of the process; None after a failed load.
    task: asyncio.Task[None] | None = None
    unloading: asyncio.Task[None] | None = None


class Versions:
    """Loaded versions by name; belongs to the event loop of the main thread.

    Args:
        make_process: returns the process of a version and its model directory, not started.
        note_end: called with the name of a version whose process ended by itself.
    """

    def __init__(
        self,
        make_process: Callable[[str, Path], VllmProcess],
        limits: VersionLimits,
        note_end: Callable[[str], None],
    ) -> None:
        self._make_process = make_process
        self._limits = limits
        self._note_end = note_end
        self._versions: dict[str, ServedVersion] = {}
        self._closing = False
        # One start at a time: vLLM measures the free memory while it starts.
        self._start_lock = asyncio.Lock()

    def has_failed_engine(self) -> bool:
        """Return False: a process that fails is stopped, and its memory is free."""
        return False

    def get(self, name: str) -> ServedVersion:
        """Return a version that can answer.

        Raises:
            VersionNotFoundError: there is no such version.
            UnavailableError: the version loads, is being unloaded or failed to load; or the process
                ends.
        """
        if self._closing:
            raise UnavailableError("the model server is shutting down", reason="STOPPED")
        version = self._versions.get(name)
        if version is None:
            raise VersionNotFoundError("model: no such version is loaded", "model")
        if version.state is not State.READY:
            raise UnavailableError(
                f"model: this version is {version.state.lower()}: {version.reason}", "model"
            )
        return version

    @contextmanager
    def use(self, name: str) -> Iterator[ServedVersion]:
        """Return a version that can answer, and count the block as a running request.

        Raises:
            PredictorError: see `get`.
        """
        version = self.get(name)
        version.running += 1
        try:
            yield version
        finally:
            version.running -= 1

    def ready(self) -> list[ServedVersion]:
        """Return the versions that can answer, oldest first."""
        found = (each for each in self._versions.values() if each.state is State.READY)
        return sorted(found, key=lambda version: version.ready_at)

    def index(self) -> list[IndexEntry]:
        """Return all versions, including failed ones with the reason."""
        return [
            IndexEntry(name, version.state, version.reason, version.directory)
            for name, version in sorted(self._versions.items())
        ]

    async def load(self, name: str, directory: Path) -> None:
        """Load a version and wait until the version is ready.

        For a loaded version nothing happens, and a running load is joined.

        Raises:
            InvalidRequestError: name or path are invalid.
            ModelRefusedError: the directory is not a model, or vLLM does not serve it.
            VersionConflictError: other files are loaded under this name.
            UnavailableError: the version is being unloaded, or the limit of versions is reached.
        """
        if self._closing:
            raise UnavailableError("the model server is shutting down", reason="STOPPED")
        check_load_request(name, directory)
        digest = await asyncio.to_thread(manifest_digest, directory)
        version = self._versions.get(name)
        if version is not None and version.state is State.READY:
            if digest != version.digest:
                raise VersionConflictError(
                    "other files are loaded under this name; versions are immutable, use a new id",
                    field="version",
                )
            return
        if version is None or version.state is State.UNAVAILABLE:
            version = self._start_load(name, directory, digest, version)
        task = version.task
        assert task is not None
        try:
            # Shielded, so that a disconnecting caller does not cancel the load for callers that
            # joined.
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if not task.cancelled():
                raise
            raise UnavailableError(
                "the load was stopped by the shutdown", reason="STOPPED"
            ) from error

    async def unload(self, name: str, *, only_idle: bool = False) -> None:
        """Wait for running answers, then stop the process of the version.

        Raises:
            VersionNotFoundError: the version is not loaded.
            VersionInUseError: answers run on the version, and `only_idle` is set; nothing has
                changed.
        """
        version = self._versions.get(name)
        if version is None:
            raise VersionNotFoundError("no such version is loaded", field="version")
        if version.state is State.LOADING and version.task is not None:
            await asyncio.wait([version.task])
        # No await between this check and the change of the state, so that no answer can start in
        # between.
        if only_idle and version.running:
            raise VersionInUseError(
                f"{version.running} answers run on this version", field="version"
            )
        await self._stop(version)

    async def close(self) -> None:
        """Drain all versions and stop their processes, at shutdown."""
        self._closing = True
        await asyncio.gather(*(self._stop(version) for version in list(self._versions.values())))

    def _start_load(
        self, name: str, directory: Path, digest: str, previous: ServedVersion | None
    ) -> ServedVersion:
        if previous is not None and (previous.task or previous.unloading):
            raise UnavailableError(
                f"this version is being unloaded: {previous.reason}",
                field="version",
                reason="STOPPED",
            )
        # A version that failed to load has no process.
        loaded = [each.name for each in self._versions.values() if each.task or each.unloading]
        if len(loaded) >= self._limits.max_versions:
            raise UnavailableError(
                f"{name}: {', '.join(sorted(loaded))} are loaded, and memory is divided among at "
                f"most {self._limits.max_versions} versions (TW_VLLM_SERVER_MAX_VERSIONS); unload "
                "one first",
                field="version",
                reason="OVERLOADED",
                limit=f"{self._limits.max_versions} versions",
            )
        version = ServedVersion(name, directory, digest, self._make_process(name, directory))
        self._versions[name] = version
        version.task = asyncio.create_task(self._load(version))
        # The load continues without a waiting caller. Retrieve its exception, which the version
        # already holds: asyncio logs an exception that was never retrieved.
        version.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return version

    async def _load(self, version: ServedVersion) -> None:
        process, name = version.process, version.name
        log.info("starting vLLM", extra=fields(version=name, log=str(process.log)))
        began = time.monotonic()
        try:
            async with self._start_lock:
                await process.start(self._limits.load_seconds)
        except BaseException as error:
            await asyncio.shield(process.stop())
            version.state, version.task = State.UNAVAILABLE, None
            text = error.text if isinstance(error, PredictorError) else type(error).__name__
            version.reason = text
            log.warning("load failed", extra=fields(version=name, reason=text))
            raise
        version.state, version.reason = State.READY, ""
        version.ready_at = int(time.time())
        seconds = round(time.monotonic() - began, 1)
        log.info("version ready", extra=fields(version=name, seconds=seconds))
        version.task = asyncio.create_task(self._watch(version))

    async def _watch(self, version: ServedVersion) -> None:
        """Wait for the end of the process, and remove its version."""
        how = await version.process.wait_end()
        version.state, version.reason = State.UNAVAILABLE, f"vLLM ended by itself ({how})"
        log.error(
            "vLLM ended by itself",
            extra=fields(version=version.name, how=how, log=str(version.process.log)),
        )
        self._note_end(version.name)
        # Its engine may still hold the memory.
        await version.process.stop()
        self._forget(version)

    async def _stop(self, version: ServedVersion) -> None:
        """Stop the process after its running answers; concurrent callers join."""
        version.unloading = version.unloading or asyncio.create_task(self._drain_and_stop(version))
        # Shielded, so that a disconnecting caller does not interrupt the stop.
        await asyncio.shield(version.unloading)

    async def _drain_and_stop(self, version: ServedVersion) -> None:
        if version.state is State.READY:
            version.state, version.reason = State.UNAVAILABLE, "being unloaded"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._limits.drain_seconds):
                    while version.running:  # noqa: ASYNC110 - ends with an answer
                        await asyncio.sleep(DRAIN_POLL_SECONDS)
        if version.task is not None:
            version.task.cancel()
            await asyncio.wait([version.task])
        await version.process.stop()
        self._forget(version)
        log.info("version unloaded", extra=fields(version=version.name))

    def _forget(self, version: ServedVersion) -> None:
        if self._versions.get(version.name) is version:
            del self._versions[version.name]
