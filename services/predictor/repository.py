"""The loaded versions.

Loading runs in a thread while streams continue; unloading first waits for the streams of the
version.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.predictor.errors import (
    ModelRefusedError,
    PredictorError,
    UnavailableError,
    VersionConflictError,
    VersionInUseError,
    VersionNotFoundError,
)
from services.predictor.manifest import manifest_digest
from services.predictor.metrics import Metrics
from services.predictor.repository_entry import IndexEntry, State, check_load_request
from services.predictor.version import Version

log = logging.getLogger(__name__)


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


@dataclass(slots=True)
class _Slot:
    state: State
    directory: Path
    reason: str = ""
    version: Version | None = None
    loading: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class RepositoryLimits:
    """Limits of the repository.

    Args:
        max_versions: versions in memory.
        drain_seconds: time for running generations at unload.
        models_root: directories outside are refused; None allows all.
    """

    max_versions: int
    drain_seconds: float
    models_root: Path | None = None


class Repository:
    """Loaded versions by name; belongs to the event loop."""

    def __init__(
        self,
        load: Callable[[str, Path], Version],
        journal: Journal,
        metrics: Metrics,
        limits: RepositoryLimits,
    ) -> None:
        self._load = load
        self._journal = journal
        self._metrics = metrics
        self._limits = limits
        self._slots: dict[str, _Slot] = {}
        self._closing = False
        # One load at a time, since concurrent conversions would compete for memory.
        self._load_lock = asyncio.Lock()

    def get(self, name: str) -> Version:
        """Return a version that can answer.

        Raises:
            VersionNotFoundError: there is no such version.
            UnavailableError: the version loads, drains or failed to load; or the process ends.
        """
        if self._closing:
            raise UnavailableError("the predictor is shutting down", reason="STOPPED")
        slot = self._slots.get(name)
        if slot is None:
            raise VersionNotFoundError("model: no such version is loaded", "model")
        if slot.version is None or slot.state is not State.READY:
            raise UnavailableError(
                f"model: this version is {slot.state.lower()}: {slot.reason}",
                "model",
                reason="STOPPED" if slot.version is not None else "",
            )
        return slot.version

    def ready(self) -> list[Version]:
        """Return the versions that can answer."""
        ready = (
            slot.version
            for slot in self._slots.values()
            if slot.version and slot.state is State.READY
        )
        return [version for version in ready if not version.engine.failed]

    def has_failed_engine(self) -> bool:
        """Return True if an engine failed.

        Its memory is freed only by a new load of that version, or by a restart.
        """
        return any(
            slot.version is not None and slot.version.engine.failed for slot in self._slots.values()
        )

    def index(self) -> list[IndexEntry]:
        """Return all versions, including failed ones with the reason."""
        return [self._entry(name, slot) for name, slot in sorted(self._slots.items())]

    def _entry(self, name: str, slot: _Slot) -> IndexEntry:
        if slot.version is not None and slot.version.engine.failed:
            return IndexEntry(
                name, State.UNAVAILABLE, slot.version.engine.closed_reason, slot.directory
            )
        return IndexEntry(name, slot.state, slot.reason, slot.directory)

    async def load(self, name: str, directory: Path) -> None:
        """Load a version and wait until the version is ready.

        For a loaded version nothing happens, and a running load is joined.

        Raises:
            InvalidRequestError: name or path are invalid.
            ModelRefusedError: the directory is not a usable model; the text names the cause.
            VersionConflictError: other files are loaded under this name.
            UnavailableError: the version is being unloaded, or the limit of versions is reached.
        """
        if self._closing:
            raise UnavailableError("the predictor is shutting down", reason="STOPPED")
        self._check_request(name, directory)
        slot = self._slots.get(name)
        if slot is not None and slot.state is State.READY and not self._entry(name, slot).reason:
            assert slot.version is not None
            if await asyncio.to_thread(manifest_digest, directory) != slot.version.manifest_digest:
                raise VersionConflictError(
                    "other files are loaded under this name; versions are immutable, use a new id",
                    field="version",
                )
            return
        if slot is None or slot.loading is None:
            slot = await self._start_load(name, directory, slot)
        assert slot.loading is not None
        # Shielded, so that a disconnecting caller does not cancel the load for callers that joined.
        await asyncio.shield(slot.loading)

    async def unload(self, name: str, *, only_idle: bool = False) -> None:
        """Wait for running streams, then free the version.

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
        # No await between this check and the drain, so that no answer can start in between.
        if only_idle and slot.version is not None and slot.version.engine.active:
            raise VersionInUseError(
                f"{slot.version.engine.active} answers run on this version", field="version"
            )
        self._journal.remove(name)
        await self._drain_and_unload(name, slot)

    async def close(self) -> None:
        """Drain all versions at shutdown; the journal keeps them for the next start."""
        self._closing = True
        loading = [slot.loading for slot in self._slots.values() if slot.loading is not None]
        await asyncio.gather(*loading, return_exceptions=True)
        await asyncio.gather(
            *(self._drain_and_unload(name, slot) for name, slot in list(self._slots.items()))
        )

    def _check_request(self, name: str, directory: Path) -> None:
        check_load_request(name, directory)
        root = self._limits.models_root
        if root is not None and not directory.resolve().is_relative_to(root.resolve()):
            raise ModelRefusedError(
                "parameters.directory must be inside the models' root",
                "parameters.directory",
                reason="OUT_OF_RANGE",
            )

    async def _start_load(self, name: str, directory: Path, slot: _Slot | None) -> _Slot:
        if slot is not None and slot.version is not None:
            if not slot.version.engine.failed:
                raise UnavailableError(
                    f"this version is being unloaded: {slot.reason}",
                    field="version",
                    reason="STOPPED",
                )
            await self._drain_and_unload(name, slot)
        loaded = sum(slot.state is not State.UNAVAILABLE for slot in self._slots.values())
        if loaded >= self._limits.max_versions:
            raise UnavailableError(
                f"{loaded} versions are loaded, which is the limit; unload one first",
                reason="OVERLOADED",
                limit=f"{self._limits.max_versions} versions",
            )
        new_slot = _Slot(State.LOADING, directory, "being loaded")
        new_slot.loading = asyncio.create_task(self._load_into(name, directory, new_slot))
        # The load continues without a waiting caller. Retrieve its exception, which the slot
        # already holds: asyncio logs an exception that was never retrieved.
        new_slot.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._slots[name] = new_slot
        return new_slot

    async def _load_into(self, name: str, directory: Path, slot: _Slot) -> None:
        began = time.perf_counter()
        try:
            async with self._load_lock:
                slot.version = await asyncio.to_thread(self._load, name, directory)
        except Exception as error:
            slot.state = State.UNAVAILABLE
            slot.reason = (
                error.text
                if isinstance(error, PredictorError)
                else f"load failed: {type(error).__name__}"
            )
            log.warning("load failed", extra={"fields": {"version": name, "reason": slot.reason}})
            raise
        finally:
            slot.loading = None
        slot.state, slot.reason = State.READY, ""
        self._journal.add(name, directory)
        seconds = round(time.perf_counter() - began, 2)
        log.info("version ready", extra={"fields": {"version": name, "seconds": seconds}})

    async def _drain_and_unload(self, name: str, slot: _Slot) -> None:
        if slot.version is not None:
            if slot.state is not State.READY:
                return  # another caller drains the version
            slot.state, slot.reason = State.UNAVAILABLE, "being unloaded"
            await slot.version.engine.drain(self._limits.drain_seconds)
            await asyncio.to_thread(slot.version.engine.close)
            self._metrics.forget(name)
            log.info("version unloaded", extra={"fields": {"version": name}})
        del self._slots[name]
