"""The way to the ack: decide whether an event is new, claim it, seal it, then one write and one
sync for all who wait.

One thread decides and writes, so two calls with the same event_id can never both be new here; two
replicas may both store one, with the same content and the same place in the order: the sink keeps
the first.
"""

import asyncio
import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import AlreadyExistsError, ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.feedback.spool.frames import Entry, Record, frame_bytes
from services.feedback.spool.spool import BROKEN

log = logging.getLogger(__name__)

# Enough for one sync to serve all callers of a busy moment; a batch of turns may be 2 MiB by
# itself.
MAX_CALLS_PER_GROUP = 256
MAX_BYTES_PER_GROUP = 4 * 1024 * 1024

NewEventCount = int
"""How many of a call's events were new; the others were known, with the same content."""


class CommittedIds(Protocol):
    """What the sink has committed, by event id."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the ids that are committed. Raises: UnavailableError."""


@dataclass(frozen=True)
class Claim:
    """What is known of an event after claiming it: whose content stands, its order, and whether it
    is in the ledger already.
    """

    fingerprint: bytes
    accept_order: int
    committed: bool = False


class Claims(Protocol):
    """Who came first, over all processes that accept."""

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Claim events in the order of their acceptance. Raises: UnavailableError."""

    def release(self, event_ids: Collection[str]) -> None:
        """Give back what was not stored. Raises: UnavailableError."""

    def sweep(self, older_than_seconds: float) -> int:
        """Forget claims whose events never came; returns how many. Raises: UnavailableError."""


class NoClaims:
    """One process accepts: what it knows itself is all there is to know."""

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Each event is its own claim."""
        return {entry.event_id: Claim(entry.fingerprint, 0) for entry in entries}

    def release(self, event_ids: Collection[str]) -> None:
        """Nothing was taken."""

    def sweep(self, older_than_seconds: float) -> int:
        """Nothing is left behind."""
        return 0


class EntrySealer(Protocol):
    """Makes of a plain entry what may be written down."""

    @property
    def max_overhead_bytes(self) -> int:
        """By how much an entry grows at most."""

    def fingerprint(self, digest: bytes) -> bytes:
        """What is written down of an event's content, in place of its digest."""

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        """The entries, their texts sealed under keys that stand now. Raises: UnavailableError."""


class Journal(Protocol):
    """Where accepted events become durable."""

    def check_space(self, new_bytes: int) -> None:
        """Raises: UnavailableError if so many more bytes would pass the limit."""

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        """Store all durably, or none. Raises: UnavailableError."""


@dataclass(frozen=True)
class Stored:
    """What one group commit did: a result for each call, and the new records."""

    results: list[NewEventCount | ServiceError]
    records: list[Record]


class Acceptance:
    """Idempotency by event id, over what the journal still holds and what the ledger has. One
    thread calls `store`.
    """

    def __init__(
        self,
        stream: str,
        journal: Journal,
        committed: CommittedIds,
        claims: Claims,
        sealing: EntrySealer,
    ) -> None:
        self._stream, self._journal, self._committed = stream, journal, committed
        self._claims, self._sealing = claims, sealing
        self._pending: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._mutex = threading.Lock()

    def store(self, calls: Sequence[Sequence[Entry]]) -> Stored:
        """Store the new events of many calls; each call's events are stored all or not at all."""
        calls = [
            [replace(e, fingerprint=self._sealing.fingerprint(e.fingerprint)) for e in call]
            for call in calls
        ]
        try:
            known = self._known_fingerprints([entry.event_id for call in calls for entry in call])
            results, group = self._decide(calls, known)
            claims = self._claims.claim(list(group.values())) if group else {}
        except UnavailableError as error:
            return Stored([error] * len(calls), [])
        results, new = self._apply_claims(calls, results, claims)
        return self._append(calls, results, new, group)

    def remember(self, records: Sequence[Record]) -> None:
        """Take records as known: they are in the spool and not yet in the ledger."""
        with self._mutex:
            for record in records:
                self._pending.setdefault(
                    record.entry.event_id, (record.offset, record.entry.fingerprint)
                )

    def forget(self, before: int) -> None:
        """Drop what the ledger knows by now."""
        with self._mutex:
            while self._pending and next(iter(self._pending.values()))[0] < before:
                self._pending.popitem(last=False)

    def _known_fingerprints(self, event_ids: list[str]) -> dict[str, bytes]:
        # Memory before ledger: an id moves from the one to the other and is never in neither.
        with self._mutex:
            pending = {i: self._pending[i][1] for i in event_ids if i in self._pending}
        rest = [event_id for event_id in event_ids if event_id not in pending]
        return pending | dict(self._committed.fingerprints(self._stream, rest)) if rest else pending

    def _decide(
        self, calls: Sequence[Sequence[Entry]], known: Mapping[str, bytes]
    ) -> tuple[list[NewEventCount | ServiceError], dict[str, Entry]]:
        """A result for each call as far as this process knows, and the events that are new to it."""
        group: dict[str, Entry] = {}
        results: list[NewEventCount | ServiceError] = []
        group_bytes = 0
        for call in calls:
            try:
                new = self._new_events(call, known, group)
                new_bytes = sum(
                    frame_bytes(entry) + self._sealing.max_overhead_bytes for entry in new.values()
                )
                self._journal.check_space(group_bytes + new_bytes)
            except ServiceError as error:
                results.append(error)
            else:
                group.update(new)
                group_bytes += new_bytes
                results.append(len(new))
        return results, group

    def _append(
        self,
        calls: Sequence[Sequence[Entry]],
        results: list[NewEventCount | ServiceError],
        new: Mapping[str, Entry],
        group: Collection[str],
    ) -> Stored:
        records: list[Record] = []
        stored = set(new)
        try:
            if new:
                records = self._journal.append(self._sealing.seal(list(new.values())))
        except UnavailableError as error:
            touched = [any(entry.event_id in new for entry in call) for call in calls]
            results = [
                error if hit else result for hit, result in zip(touched, results, strict=True)
            ]
            # On a broken disk it is not known what was stored, so what may be there keeps its
            # claims.
            stored = stored if error.reason == BROKEN else set()
        self._release(set(group) - stored)
        self.remember(records)
        return Stored(results, records)

    def _release(self, event_ids: Collection[str]) -> None:
        try:
            if event_ids:
                self._claims.release(event_ids)
        except UnavailableError:
            log.warning(
                "claims were not released", extra=fields(stream=self._stream, events=len(event_ids))
            )

    def _apply_claims(
        self,
        calls: Sequence[Sequence[Entry]],
        results: Sequence[NewEventCount | ServiceError],
        claims: Mapping[str, Claim],
    ) -> tuple[list[NewEventCount | ServiceError], dict[str, Entry]]:
        """The results as all processes know them, and the events to store, with their place in the
        order.
        """
        found: list[NewEventCount | ServiceError] = []
        new: dict[str, Entry] = {}
        for call, result in zip(calls, results, strict=True):
            claimed = (
                []
                if isinstance(result, ServiceError)
                else [entry for entry in call if entry.event_id in claims]
            )
            if not all(
                self._is_same(claims[entry.event_id].fingerprint, entry) for entry in claimed
            ):
                found.append(_mismatch())
                continue
            before = len(new)
            for entry in claimed:
                claim = claims[entry.event_id]
                if not claim.committed:
                    new.setdefault(entry.event_id, replace(entry, accept_order=claim.accept_order))
            found.append(result if isinstance(result, ServiceError) else len(new) - before)
        return found, new

    def _new_events(
        self, call: Sequence[Entry], known: Mapping[str, bytes], group: Mapping[str, Entry]
    ) -> dict[str, Entry]:
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
            elif not self._is_same(first, entry):
                raise _mismatch()
        return new

    def _is_same(self, known: bytes, entry: Entry) -> bool:
        # The first version wrote the bare digest down; a retry may cross the upgrade.
        return entry.fingerprint in (known, self._sealing.fingerprint(known))


def _mismatch() -> AlreadyExistsError:
    text = "this id was used with another content; the first stands"
    return AlreadyExistsError(text, field="event_id", limit="one content an id")


Call = tuple[Sequence[Entry], "asyncio.Future[NewEventCount]"]


def _payload_bytes(call: Call) -> int:
    return sum(len(entry.payload) for entry in call[0])


class GroupCommit:
    """Lets many coroutines wait for one thread that stores their events together."""

    def __init__(
        self, acceptance: Acceptance, on_stored: Callable[[Sequence[Record]], None]
    ) -> None:
        """`on_stored` runs on the event loop before any caller learns of the ack, and must not
        fail.
        """
        self._acceptance, self._on_stored = acceptance, on_stored
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    async def append(self, entries: Sequence[Entry]) -> NewEventCount:
        """Return once all are durable.

        Raises:
            AlreadyExistsError: an id is known with another content.
            UnavailableError: nothing was stored.
        """
        future: asyncio.Future[NewEventCount] = self._loop.create_future()
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
        while (
            len(group) < MAX_CALLS_PER_GROUP
            and size < MAX_BYTES_PER_GROUP
            and not self._queue.empty()
        ):
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

    def _resolve(self, futures: "Sequence[asyncio.Future[NewEventCount]]", stored: Stored) -> None:
        if stored.records:
            self._on_stored(stored.records)
        for future, result in zip(futures, stored.results, strict=True):
            if future.done():
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)
