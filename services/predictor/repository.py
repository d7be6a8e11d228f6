"""The loaded versions of a model server, by name.

Loading runs while answers continue; unloading first waits for the answers of the version. The
predictor holds versions in its process, the vLLM server (`infra/run/vllm_server`) one process each.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from services.predictor.errors import (
    InvalidRequestError,
    PredictorError,
    UnavailableError,
    VersionConflictError,
    VersionInUseError,
    VersionNotFoundError,
)
from services.predictor.manifest import manifest_digest
from services.predictor.repository_entry import IndexEntry, State, check_load_request

log = logging.getLogger(__name__)


class LoadedVersion(Protocol):
    """A version in memory.

    `created` are Unix seconds, `active` is the number of running answers. `failure` is the reason
    why the version ended by itself, "" until then. `drain` returns when no answer runs, or after
    `seconds`. `close` frees the memory.
    """

    @property
    def name(self) -> str: ...
    @property
    def created(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def failure(self) -> str: ...
    async def drain(self, seconds: float) -> None: ...
    async def close(self) -> None: ...


VersionT = TypeVar("VersionT", bound=LoadedVersion, covariant=True)


class Journal:
    """Names and directories of the loaded versions in one JSON file, replaced by rename.

    A killed predictor loads the same versions again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Path]:
        """Return the versions at the last end of the process; empty for an unreadable file."""
        try:
            content = json.loads(self._path.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: Path(directory) for name, directory in content.items()}

    def add(self, name: str, directory: Path) -> None:
        """Record a version that became ready."""
        self._write({**self.read(), name: directory})

    def remove(self, name: str) -> None:
        """Remove a version at its unload."""
        self._write({known: directory for known, directory in self.read().items() if known != name})

    def _write(self, content: dict[str, Path]) -> None:
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text(
            json.dumps({name: str(directory) for name, directory in content.items()})
        )
        unfinished.replace(self._path)


@dataclass(frozen=True, slots=True)
class RepositoryLimits:
    """Limits of the repository.

    Args:
        max_versions: versions in memory.
        max_versions_setting: variable of max_versions, named in the refusal.
        drain_seconds: time for running answers at unload and shutdown.
        models_root: directories outside are refused; None allows all.
    """

    max_versions: int
    max_versions_setting: str
    drain_seconds: float
    models_root: Path | None = None


@dataclass(eq=False, slots=True)
class _Slot(Generic[VersionT]):
    name: str
    directory: Path
    state: State = State.LOADING
    reason: str = "being loaded"
    digest: str = ""
    version: VersionT | None = None
    loading: asyncio.Task[None] | None = None
    unloading: asyncio.Task[None] | None = None

    @property
    def failure(self) -> str:
        return "" if self.version is None else self.version.failure

    @property
    def entry(self) -> IndexEntry:
        state = State.UNAVAILABLE if self.failure else self.state
        return IndexEntry(self.name, state, self.failure or self.reason, self.directory)


class Repository(Generic[VersionT]):
    """Loaded versions by name; belongs to the event loop.

    Args:
        load: loads a version; raises PredictorError.
        journal: records the loaded versions.
        cancel_loads: True if `close` cancels running loads, which must be able to end then; False
            if it waits for them.
    """

    def __init__(
        self,
        load: Callable[[str, Path], Awaitable[VersionT]],
        limits: RepositoryLimits,
        journal: Journal | None = None,
        *,
        cancel_loads: bool = False,
    ) -> None:
        self._load = load
        self._limits = limits
        self._journal = journal
        self._cancel_loads = cancel_loads
        self._slots: dict[str, _Slot[VersionT]] = {}
        self._closing = False
        # One load at a time: concurrent conversions would compete for memory, and vLLM measures the
        # free memory while it starts.
        self._load_lock = asyncio.Lock()

    def get(self, name: str | None) -> VersionT:
        """Return a version that can answer; without a name the only one.

        Raises:
            InvalidRequestError: there is no name, and not exactly one version can answer.
            VersionNotFoundError: there is no such version.
            UnavailableError: the version loads, drains or failed to load; or the process ends.
        """
        self._check_open()
        if name is None:
            ready = self.ready()
            if len(ready) != 1:
                raise InvalidRequestError(
                    f"model: must be named, since {len(ready)} versions are loaded",
                    "model",
                    reason="MISSING",
                    limit="a name of /v1/models",
                )
            name = ready[0].name
        slot = self._slots.get(name)
        if slot is None:
            raise VersionNotFoundError("model: no such version is loaded", "model")
        if slot.version is None or slot.unloading is not None:
            raise UnavailableError(
                f"model: this version is {slot.entry.state.lower()}: {slot.entry.reason}",
                "model",
                reason="STOPPED" if slot.version is not None else "",
            )
        return slot.version

    def ready(self) -> list[VersionT]:
        """Return the versions that can answer, oldest first."""
        versions = (
            slot.version
            for slot in self._slots.values()
            if slot.version is not None and slot.entry.state is State.READY
        )
        return sorted(versions, key=attrgetter("created"))

    def has_failed_version(self) -> bool:
        """Return True if a version ended by itself and still holds its memory.

        A new load of that version frees the memory, or a restart.
        """
        return any(slot.failure and slot.unloading is None for slot in self._slots.values())

    def index(self) -> list[IndexEntry]:
        """Return all versions, including failed ones with the reason."""
        return [slot.entry for _, slot in sorted(self._slots.items())]

    async def load(self, name: str, directory: Path) -> None:
        """Load a version and wait until the version is ready.

        For a loaded version nothing happens, and a running load is joined.

        Raises:
            InvalidRequestError: name or path are invalid.
            ModelRefusedError: the directory is not a usable model; the text names the cause.
            VersionConflictError: other files are loaded under this name.
            UnavailableError: the version is being unloaded, or the limit of versions is reached.
        """
        self._check_open()
        check_load_request(name, directory, self._limits.models_root)
        slot = self._slots.get(name)
        if slot is not None and slot.failure:
            await self._unload(slot)
            self._check_open()
            slot = self._slots.get(name)
        if slot is not None and slot.state is State.READY:
            if await asyncio.to_thread(manifest_digest, directory) != slot.digest:
                raise VersionConflictError(
                    "other files are loaded under this name; versions are immutable, use a new id",
                    field="version",
                )
            return
        if slot is not None and slot.unloading is not None:
            raise UnavailableError(
                f"this version is being unloaded: {slot.entry.reason}",
                field="version",
                reason="STOPPED",
            )
        loading = slot.loading if slot is not None else None
        if loading is None:
            loading = self._start_load(name, directory)
        try:
            # Shielded, so that a disconnecting caller does not cancel the load for callers that
            # joined.
            await asyncio.shield(loading)
        except asyncio.CancelledError:
            if loading.cancelled():
                self._check_open()  # raises UnavailableError if `close` cancelled the load
            raise

    async def unload(self, name: str, *, only_idle: bool = False) -> None:
        """Wait for running answers, then free the version.

        Raises:
            VersionNotFoundError: the version is not loaded.
            VersionInUseError: answers run on the version, and `only_idle` is set; nothing has
                changed.
        """
        slot = self._slots.get(name)
        if slot is None:
            raise VersionNotFoundError("no such version is loaded", field="version")
        if slot.loading is not None:
            await asyncio.wait([slot.loading])
        # No await between this check and the change of the state, so that `get` does not return the
        # version in between.
        if only_idle and slot.version is not None and slot.version.active:
            raise VersionInUseError(
                f"{slot.version.active} answers run on this version", field="version"
            )
        if self._journal is not None:
            self._journal.remove(name)
        await self._unload(slot)

    async def close(self) -> None:
        """Drain all versions at shutdown; the journal keeps them for the next start."""
        self._closing = True
        await asyncio.gather(*(self._end(slot) for slot in list(self._slots.values())))

    def _check_open(self) -> None:
        if self._closing:
            raise UnavailableError("the model server is shutting down", reason="STOPPED")

    def _start_load(self, name: str, directory: Path) -> asyncio.Task[None]:
        # A version that drains is counted, since it holds its memory; a failed load holds none.
        loaded = sorted(
            slot.name for slot in self._slots.values() if slot.loading or slot.version is not None
        )
        limit = self._limits.max_versions
        if len(loaded) >= limit:
            raise UnavailableError(
                f"{', '.join(loaded)}: the limit is {limit} loaded versions "
                f"({self._limits.max_versions_setting}); unload one first",
                field="version",
                reason="OVERLOADED",
                limit=f"{limit} versions",
            )
        slot = self._slots[name] = _Slot[VersionT](name, directory)
        slot.loading = asyncio.create_task(self._load_into(slot))
        # The load continues without a waiting caller. Retrieve its exception, which the slot
        # already holds: asyncio logs an exception that was never retrieved.
        slot.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return slot.loading

    async def _load_into(self, slot: _Slot[VersionT]) -> None:
        began = time.perf_counter()
        try:
            slot.digest = await asyncio.to_thread(manifest_digest, slot.directory)
            async with self._load_lock:
                slot.version = await self._load(slot.name, slot.directory)
        except BaseException as error:
            slot.state = State.UNAVAILABLE
            slot.reason = (
                error.text
                if isinstance(error, PredictorError)
                else f"load failed: {type(error).__name__}"
            )
            fields = {"version": slot.name, "reason": slot.reason}
            log.warning("load failed", extra={"fields": fields})
            raise
        finally:
            slot.loading = None
        slot.state, slot.reason = State.READY, ""
        if self._journal is not None:
            self._journal.add(slot.name, slot.directory)
        seconds = round(time.perf_counter() - began, 2)
        log.info("version ready", extra={"fields": {"version": slot.name, "seconds": seconds}})

    async def _end(self, slot: _Slot[VersionT]) -> None:
        if slot.loading is not None:
            if self._cancel_loads:
                slot.loading.cancel()
            await asyncio.wait([slot.loading])
        await self._unload(slot)

    async def _unload(self, slot: _Slot[VersionT]) -> None:
        """Drain and free a version that does not load; concurrent callers join."""
        if slot.unloading is None:
            slot.state, slot.reason = State.UNAVAILABLE, "being unloaded"
            slot.unloading = asyncio.create_task(self._drain_and_close(slot))
        # Shielded, so that a disconnecting caller does not interrupt the unload.
        await asyncio.shield(slot.unloading)

    async def _drain_and_close(self, slot: _Slot[VersionT]) -> None:
        if slot.version is not None:
            await slot.version.drain(self._limits.drain_seconds)
            await slot.version.close()
            log.info("version unloaded", extra={"fields": {"version": slot.name}})
        if self._slots.get(slot.name) is slot:
            del self._slots[slot.name]
