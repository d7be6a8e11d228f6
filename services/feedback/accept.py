"""The way to the ack: decide whether an event is new, then one write and one sync for all who wait.

One thread decides and writes, so two calls with the same event_id can never both be new.
"""

import asyncio
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import AlreadyExistsError, ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.feedback.frames import Entry, Record, frame_bytes
from services.feedback.spool import Spool

log = logging.getLogger(__name__)

# Enough for one sync to serve all callers of a busy moment; a batch of turns may be 2 MiB by itself.
MAX_CALLS_A_GROUP = 256
MAX_BYTES_A_GROUP = 4 * 1024 * 1024

Receipt = int
"""How many of a call's events were new; the others were known, with the same content."""


class CommittedIds(Protocol):
    """What the sink has committed, by event id."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the ids that are committed. Raises: UnavailableError."""


@dataclass(frozen=True)
class Stored:
    """What one group commit did: a result for each call, and the new records."""

    results: list[Receipt | ServiceError]
    records: list[Record]


class Acceptance:
    """Idempotency by event id, over what the spool still holds and what the ledger has. One thread calls `store`."""

    def __init__(self, stream: str, spool: Spool, committed: CommittedIds) -> None:
        self._stream, self._spool, self._committed = stream, spool, committed
        self._waiting: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._mutex = threading.Lock()

    def store(self, calls: Sequence[Sequence[Entry]]) -> Stored:
        """Store the new events of many calls; each call's events are stored all or not at all."""
        group: dict[str, Entry] = {}
        results: list[Receipt | ServiceError] = []
        try:
            known = self._known([entry.event_id for call in calls for entry in call])
        except UnavailableError as error:
            return Stored([error] * len(calls), [])
        group_bytes = 0
        for call in calls:
            try:
                new = _new(call, known, group)
                new_bytes = sum(map(frame_bytes, new.values()))
                self._spool.check_room(group_bytes + new_bytes)
            except ServiceError as error:
                results.append(error)
            else:
                group.update(new)
                group_bytes += new_bytes
                results.append(len(new))
        return self._append(calls, group, results)

    def remember(self, records: Sequence[Record]) -> None:
        """Take records as known: they are in the spool and not yet in the ledger."""
        with self._mutex:
            for record in records:
                self._waiting.setdefault(record.entry.event_id, (record.offset, record.entry.fingerprint))

    def forget(self, before: int) -> None:
        """Drop what the ledger knows by now."""
        with self._mutex:
            while self._waiting and next(iter(self._waiting.values()))[0] < before:
                self._waiting.popitem(last=False)

    def _known(self, event_ids: list[str]) -> dict[str, bytes]:
        # Memory before ledger: an id moves from the one to the other and is never in neither.
        with self._mutex:
            waiting = {i: self._waiting[i][1] for i in event_ids if i in self._waiting}
        rest = [event_id for event_id in event_ids if event_id not in waiting]
        return waiting | dict(self._committed.fingerprints(self._stream, rest)) if rest else waiting

    def _append(
        self, calls: Sequence[Sequence[Entry]], group: dict[str, Entry], results: list[Receipt | ServiceError]
    ) -> Stored:
        if not group:
            return Stored(results, [])
        try:
            records = self._spool.append(list(group.values()))
        except UnavailableError as error:
            touched = [any(entry.event_id in group for entry in call) for call in calls]
            failed = [error if hit else result for hit, result in zip(touched, results, strict=True)]
            return Stored(failed, [])
        self.remember(records)
        return Stored(results, records)


def _new(call: Sequence[Entry], known: Mapping[str, bytes], group: Mapping[str, Entry]) -> dict[str, Entry]:
    """The call's events that nobody sent before.

    Raises:
        AlreadyExistsError: an id is known with another content. The first stands.
    """
    new: dict[str, Entry] = {}
    for entry in call:
        earlier = new.get(entry.event_id) or group.get(entry.event_id)
        first = earlier.fingerprint if earlier else known.get(entry.event_id)
        if first is None:
            new[entry.event_id] = entry
        elif first != entry.fingerprint:
            raise AlreadyExistsError(
                "this id was used with another content; the first stands", field="event_id", limit="one content an id"
            )
    return new


Call = tuple[Sequence[Entry], "asyncio.Future[Receipt]"]


def _payload_bytes(call: Call) -> int:
    return sum(len(entry.payload) for entry in call[0])


class GroupCommit:
    """Lets many coroutines wait for one thread that stores their events together."""

    def __init__(self, acceptance: Acceptance, on_stored: Callable[[Sequence[Record]], None]) -> None:
        """`on_stored` runs on the event loop before any caller learns of the ack, and must not fail."""
        self._acceptance, self._on_stored = acceptance, on_stored
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    async def append(self, entries: Sequence[Entry]) -> Receipt:
        """Return once all are durable.

        Raises:
            AlreadyExistsError: an id is known with another content.
            UnavailableError: nothing was stored.
        """
        future: asyncio.Future[Receipt] = self._loop.create_future()
        self._queue.put((entries, future))
        return await future

    async def close(self) -> None:
        """Store what waits, then stop the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while group := self._next_group():
            self._store(group)

    def _next_group(self) -> "list[Call]":
        """Wait for a call, and take with it what has queued up; empty: the end."""
        first = self._queue.get()
        if first is None:
            return []
        group, size = [first], _payload_bytes(first)
        while len(group) < MAX_CALLS_A_GROUP and size < MAX_BYTES_A_GROUP and not self._queue.empty():
            call = self._queue.get_nowait()
            if call is None:
                self._queue.put(None)
                break
            group.append(call)
            size += _payload_bytes(call)
        return group

    def _store(self, group: "list[Call]") -> None:
        try:
            stored = self._acceptance.store([entries for entries, _ in group])
        except Exception as error:  # noqa: BLE001 - the callers must hear of it, and the thread must go on
            log.error("group commit failed", extra=fields(error=type(error).__name__))
            stored = Stored([ServiceError("internal error")] * len(group), [])
        self._loop.call_soon_threadsafe(self._resolve, [future for _, future in group], stored)

    def _resolve(self, futures: "Sequence[asyncio.Future[Receipt]]", stored: Stored) -> None:
        if stored.records:
            self._on_stored(stored.records)
        for future, result in zip(futures, stored.results, strict=True):
            if future.done():
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)
