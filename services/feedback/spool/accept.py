"""Acceptance of events: deduplicate, claim, seal, write, sync.

A single thread decides and writes, so two calls with the same event_id never both count as new in
one process. Two replicas may both store an event with the same content and the same place in the
order; the sink keeps the first copy.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from services.chassis.errors import AlreadyExistsError, ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.feedback.spool.log import Entry, OffsetOutOfRangeError, Record, frame_bytes
from services.feedback.spool.pending import PendingIds
from services.feedback.spool.spool import BROKEN

log = logging.getLogger(__name__)

# Large enough for one sync to serve all concurrent callers. A batch of turns may reach 2 MiB by
# itself.
MAX_CALLS_PER_GROUP = 256
MAX_BYTES_PER_GROUP = 4 * 1024 * 1024

NewEventCount = int
"""Number of new events of a call; the others were known with the same content."""


class CommittedIds(Protocol):
    """Event ids committed by the sink."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the committed ids among the given ids, with fingerprints.

        Raises:
            UnavailableError: The database does not answer.
        """


@dataclass(frozen=True)
class Claim:
    """Result of claiming an event: winning content, order, and whether the ledger has the event."""

    fingerprint: bytes
    accept_order: int
    committed: bool = False


class Claims(Protocol):
    """Claims across all accepting processes; the first claim of an event id wins."""

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Claim events in the order of their acceptance.

        Raises:
            UnavailableError: The claims are unavailable or their state is unknown.
        """

    def release(self, event_ids: Collection[str]) -> None:
        """Release the claims of events without a stored record.

        Raises:
            UnavailableError: The claims are unavailable.
        """

    def sweep(self, older_than_seconds: float) -> int:
        """Delete claims without an event and return their number.

        Raises:
            UnavailableError: The claims are unavailable.
        """


class NoClaims:
    """Claims of a single accepting process, which needs no shared state."""

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Return a claim of its own for each event."""
        return {entry.event_id: Claim(entry.fingerprint, 0) for entry in entries}

    def release(self, event_ids: Collection[str]) -> None:
        """Ignore the release, since no claims are stored."""

    def sweep(self, older_than_seconds: float) -> int:
        """Return 0, since no claims are stored."""
        return 0


class EntrySealer(Protocol):
    """Conversion of a plain entry to a form that may be written to disk."""

    @property
    def max_overhead_bytes(self) -> int:
        """Maximum growth of an entry in bytes."""

    def fingerprint(self, digest: bytes) -> bytes:
        """Return the stored fingerprint for a content digest."""

    def seal(self, entries: Sequence[Entry]) -> list[Entry]:
        """Seal the texts of the entries under current keys.

        Raises:
            UnavailableError: The keys are unavailable.
        """


class Journal(Protocol):
    """Durable storage of accepted events."""

    def check_space(self, new_bytes: int) -> None:
        """Check for space for a number of further bytes.

        Raises:
            UnavailableError: The bytes would exceed the limit.
        """

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        """Store all entries durably, or none of them.

        Raises:
            UnavailableError: No entry was stored, or the state is unknown.
        """

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Return stored records from an offset on.

        Raises:
            OffsetOutOfRangeError: The offset was trimmed or never written.
        """


@dataclass(frozen=True)
class Stored:
    """Outcome of one group commit: one result per call, and the new records."""

    results: list[NewEventCount | ServiceError]
    records: list[Record]


class Acceptance:
    """Idempotent storage by event id, across the journal and the ledger.

    Only one thread calls `store`.
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
        self._pending = PendingIds()
        self._mutex = threading.Lock()

    def store(self, calls: Sequence[Sequence[Entry]]) -> Stored:
        """Store the new events of many calls, atomically per call."""
        calls = [
            [replace(e, fingerprint=self._sealing.fingerprint(e.fingerprint)) for e in call]
            for call in calls
        ]
        try:
            event_ids = [entry.event_id for call in calls for entry in call]
            # Read memory before the ledger: ids move from memory to the ledger, so this order never
            # misses an id.
            pending = self._pending_fingerprints(event_ids)
            rest = [event_id for event_id in event_ids if event_id not in pending]
            known = (
                pending | dict(self._committed.fingerprints(self._stream, rest))
                if rest
                else pending
            )
            # Local checks come first, so that known events never touch the shared claims.
            results, group = self._decide(calls, known)
            # The claims precede the write: a crash in between leaves a claim without an event,
            # never an event without a claim.
            claims = self._claims.claim(list(group.values())) if group else {}
        except UnavailableError as error:
            return Stored([error] * len(calls), [])
        results, new = self._apply_claims(calls, results, claims)
        return self._append(calls, results, new, group)

    def remember(self, records: Sequence[Record]) -> None:
        """Register records of the spool not yet in the ledger as known."""
        with self._mutex:
            for record in records:
                self._pending.add(record.entry.event_id, record.offset)

    def forget(self, before: int) -> None:
        """Drop known records below an offset, since the ledger has them."""
        with self._mutex:
            self._pending.forget(before)

    def _pending_fingerprints(self, event_ids: Collection[str]) -> dict[str, bytes]:
        """Return the ids known in the journal among the given ids, with fingerprints."""
        with self._mutex:
            places = {event_id: self._pending.candidates(event_id) for event_id in event_ids}
        found: dict[str, bytes] = {}
        for event_id, offsets in places.items():
            for offset in offsets:
                try:
                    (record,) = self._journal.read(offset, 1, 1)
                except OffsetOutOfRangeError:
                    # Trimmed since: the ledger, which is read next, or the claims have the id.
                    continue
                if record.entry.event_id == event_id:
                    found[event_id] = record.entry.fingerprint
                    break
        return found

    def _decide(
        self, calls: Sequence[Sequence[Entry]], known: Mapping[str, bytes]
    ) -> tuple[list[NewEventCount | ServiceError], dict[str, Entry]]:
        """Return a result per call from the knowledge of this process, and the new events."""
        group: dict[str, Entry] = {}
        results: list[NewEventCount | ServiceError] = []
        group_bytes = 0
        for call in calls:
            try:
                new: dict[str, Entry] = {}
                for entry in call:
                    earlier = new.get(entry.event_id) or group.get(entry.event_id)
                    first = earlier.fingerprint if earlier else known.get(entry.event_id)
                    if first is None:
                        new[entry.event_id] = entry
                    elif not self._is_same(first, entry):
                        # An id is known with another content; the first content wins.
                        raise _mismatch()
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
            # After a disk failure the stored records are unknown, so all claims of the group stay.
            stored = stored if error.reason == BROKEN else set()
        # Release the claims of rejected events, which would otherwise stay until the next sweep.
        rejected = set(group) - stored
        try:
            if rejected:
                self._claims.release(rejected)
        except UnavailableError:
            log.warning(
                "claims not released", extra=fields(stream=self._stream, events=len(rejected))
            )
        self.remember(records)
        return Stored(results, records)

    def _apply_claims(
        self,
        calls: Sequence[Sequence[Entry]],
        results: Sequence[NewEventCount | ServiceError],
        claims: Mapping[str, Claim],
    ) -> tuple[list[NewEventCount | ServiceError], dict[str, Entry]]:
        """Apply the claims: return results across processes, and the events to store in order."""
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
                    # The order of the claim is shared by all replicas, so copies of an event agree.
                    new.setdefault(entry.event_id, replace(entry, accept_order=claim.accept_order))
            found.append(result if isinstance(result, ServiceError) else len(new) - before)
        return found, new

    def _is_same(self, known: bytes, entry: Entry) -> bool:
        # The first version stored the bare digest, and a retry may cross the upgrade.
        return entry.fingerprint in (known, self._sealing.fingerprint(known))


def _mismatch() -> AlreadyExistsError:
    text = "the id was used before with another content; the first content is kept"
    return AlreadyExistsError(text, field="event_id", limit="one content per id")


Call = tuple[Sequence[Entry], "asyncio.Future[NewEventCount]"]


def _payload_bytes(call: Call) -> int:
    return sum(len(entry.payload) for entry in call[0])


class GroupCommit:
    """Group commit: many coroutines wait for one thread that stores their events together."""

    def __init__(
        self, acceptance: Acceptance, on_stored: Callable[[Sequence[Record]], None]
    ) -> None:
        """Start the thread.

        Args:
            acceptance: Called only from the thread.
            on_stored: Runs on the event loop before any caller gets its acknowledgement, and must
                not fail.
        """
        self._acceptance, self._on_stored = acceptance, on_stored
        self._queue: queue.SimpleQueue[Call | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()

    async def append(self, entries: Sequence[Entry]) -> NewEventCount:
        """Wait until all entries are durable and return the number of new events.

        Raises:
            AlreadyExistsError: An id is known with another content.
            UnavailableError: No entry was stored.
        """
        future: asyncio.Future[NewEventCount] = self._loop.create_future()
        self._queue.put((entries, future))
        return await future

    async def close(self) -> None:
        """Store the queued calls, then stop the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        # Wait for a call and take it with all queued calls; None ends the thread.
        while (call := self._queue.get()) is not None:
            group, size = [call], _payload_bytes(call)
            while (
                len(group) < MAX_CALLS_PER_GROUP
                and size < MAX_BYTES_PER_GROUP
                and not self._queue.empty()
            ):
                call = self._queue.get_nowait()
                if call is None:
                    # Put back for the next round: the calls before it are stored first.
                    self._queue.put(None)
                    break
                group.append(call)
                size += _payload_bytes(call)
            try:
                stored = self._acceptance.store([entries for entries, _ in group])
            except Exception as error:  # noqa: BLE001 - callers get an error
                log.error("group commit failed", extra=fields(error=type(error).__name__))
                stored = Stored([ServiceError("internal error")] * len(group), [])
            # Futures belong to the event loop and may only be resolved there.
            self._loop.call_soon_threadsafe(self._resolve, [future for _, future in group], stored)

    def _resolve(self, futures: "Sequence[asyncio.Future[NewEventCount]]", stored: Stored) -> None:
        if stored.records:
            self._on_stored(stored.records)
        for future, result in zip(futures, stored.results, strict=True):
            # The caller may have been cancelled while the group was written.
            if future.done():
                continue
            if isinstance(result, ServiceError):
                future.set_exception(result)
            else:
                future.set_result(result)
