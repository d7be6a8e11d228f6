"""One pass of compaction over a stream: small objects become larger ones, and rows that must go are
left out. Blocking.

A cover is published in one transaction after its object is stored; what it replaced is deleted a
while later. A crash at any moment leaves what readers had before, or what they have afterwards, and
at worst an object that nobody names.
"""

import hashlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.compaction.compactors import CompactionLease, Compactors, Replacement
from services.feedback.compaction.cover_draft import CoverDraft
from services.feedback.compaction.reach import Reach, find_reach
from services.feedback.compaction.runs import Run, RunLimits, choose_runs
from services.feedback.compaction.sifting import Gone, Sieve
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.covers import Served
from services.feedback.lake.ledger import FencedError, Ledger, LedgerUnavailableError
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import delete_orphans, find_orphans
from services.feedback.lake.served_object import DamagedObjectError, read_served

log = logging.getLogger(__name__)

DELETED_AT_ONCE = 100
SECOND_US = 1_000_000


class StoppedError(Exception):
    """The process is about to end; the rest is the next pass's."""


class Erasures(Protocol):
    """Knows which rows are gone."""

    def gone(self, stream: Stream) -> Gone:
        """As of now. Raises: LedgerUnavailableError."""


class Step(StrEnum):
    """Where a crash can fall."""

    LISTED = "listed"
    READ = "read"
    ENCODED = "encoded"
    STORED = "stored"
    PUBLISHED = "published"
    DELETED = "deleted"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class CompactionPace:
    """How large objects get, and when. `keep_seconds` 0: rows never expire. Replaced objects stay
    `retired_seconds`.
    """

    limits: RunLimits
    settle_seconds: float
    keep_seconds: float
    retired_seconds: float
    lease_seconds: float


@dataclass
class Tally:
    """What a pass has done. `whole`: nothing that it should have done was left undone. What turns
    up to `turns_sequence` take back is left out.
    """

    whole: bool = True
    turns_sequence: int = 0
    replaced: int = 0
    covers: int = 0
    deleted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class Compaction:
    """Compacts streams one after another. `at` is called as each step is reached: tests crash
    there.
    """

    def __init__(
        self,
        ledger: Ledger,
        compactors: Compactors,
        store: ObjectStore,
        erasures: Erasures,
        pace: CompactionPace,
        at: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self._ledger, self._compactors, self._store, self._erasures = (
            ledger,
            compactors,
            store,
            erasures,
        )
        self._pace, self._at = pace, at
        self._stopped = threading.Event()
        self._kept_at = 0.0

    def stop(self) -> None:
        """Let a pass that runs in another thread end at its next step, with StoppedError."""
        self._stopped.set()

    def run(self, stream: Stream, every_seconds: float = 0.0) -> Tally | None:
        """One pass; None: another process compacts this stream, or a whole pass ended less than
        `every_seconds` ago.

        Raises:
            FencedError: another process has taken over; it does the rest.
            ObjectStoreError, LedgerUnavailableError, StoppedError: what is published counts, the
            rest waits for the next pass.
        """
        lease = self._compactors.take(stream, self._pace.lease_seconds, every_seconds)
        if lease is None:
            return None
        tally = Tally(whole=False)
        self._kept_at = time.monotonic()
        try:
            tally = self._pass(stream, lease)
        finally:
            with suppress(FencedError, LedgerUnavailableError):
                self._compactors.release(lease, tally.turns_sequence if tally.whole else None)
        log.info(
            "stream compacted",
            extra=fields(
                stream=stream,
                whole=tally.whole,
                replaced=tally.replaced,
                covers=tally.covers,
                deleted=tally.deleted,
                **tally.dropped,
            ),
        )
        return tally

    def last_pass_us(self, stream: Stream) -> int | None:
        """When the last whole pass ended, whoever made it. Raises: LedgerUnavailableError."""
        return self._compactors.last_pass_us(stream)

    def _pass(self, stream: Stream, lease: CompactionLease) -> Tally:
        tally, now_us = Tally(), self._compactors.now_us()
        reached = self._reach(stream, lease, tally)
        gone = self._erasures.gone(stream)
        waits, through = gone.through is not None, gone.through or 0
        cutoff_us = (
            now_us - int(self._pace.keep_seconds * SECOND_US) if self._pace.keep_seconds else 0
        )

        def suspect(item: Served) -> bool:
            is_reached = reached.since is not None and item.sequence >= reached.since
            return (
                is_reached
                or item.first_sequence <= through
                or (item.oldest_us or cutoff_us) < cutoff_us
            )

        settled_us = now_us - int(self._pace.settle_seconds * SECOND_US)
        for run in choose_runs(self._served(stream), self._pace.limits, settled_us, suspect):
            self._merge(lease, run, Sieve(gone, self._ledger.taken_back, cutoff_us), tally)
        self._delete_retired(lease, waits, tally)
        if tally.whole and (waits or reached.since is not None):
            self._delete_dead_orphans(lease)
        if tally.whole and waits:
            gone.rewritten()
        return tally

    def _reach(self, stream: Stream, lease: CompactionLease, tally: Tally) -> Reach:
        """Where an object of the turns cannot be read, nobody knows what it takes back: then what
        is known already is all.
        """
        try:
            found = find_reach(
                self._ledger, self._store, stream, lease.turns_sequence, lambda: self._go_on(lease)
            )
        except DamagedObjectError as error:
            tally.whole = False
            log.warning(
                "turns that take back could not be looked for",
                extra=fields(stream=stream, why=str(error)),
            )
            return Reach(None, lease.turns_sequence)
        tally.turns_sequence = found.turns_sequence
        return found

    def _served(self, stream: Stream) -> Iterator[Served]:
        """What is published meanwhile lies before the next page."""
        for page in self._ledger.served_pages(stream):
            self._at(Step.LISTED)
            yield from page

    def _merge(self, lease: CompactionLease, run: Run, sieve: Sieve, tally: Tally) -> None:
        draft = CoverDraft()
        for item in run.items:
            self._go_on(lease)
            try:
                draft.add(item, sieve.sift(read_served(self._store, item)))
            except DamagedObjectError as error:
                # Nothing may be published over it: what is left of it may still be mended.
                self._pass_by(lease, item, error, tally)
                self._publish(lease, draft, run.merge, tally)
                draft = CoverDraft()
            self._at(Step.READ)
            if draft.rows >= self._pace.limits.rows or draft.bytes >= self._pace.limits.bytes:
                self._publish(lease, draft, run.merge, tally)
                draft = CoverDraft()
        self._publish(lease, draft, run.merge, tally)

    def _pass_by(
        self, lease: CompactionLease, item: Served, error: DamagedObjectError, tally: Tally
    ) -> None:
        """Raises: FencedError: whoever has taken over may have deleted the object, and nothing is
        damaged.
        """
        self._compactors.keep(lease, self._pace.lease_seconds)
        tally.whole = False
        metrics.COMPACTION_FAILURES.labels(lease.stream, type(error).__name__).inc()
        log.error(
            "object is damaged",
            extra=fields(stream=lease.stream, sequence=item.sequence, why=str(error)),
        )

    def _publish(
        self, lease: CompactionLease, draft: CoverDraft, merge: bool, tally: Tally
    ) -> None:
        if not draft.is_worth_it(merge):
            return
        key, digest = "", ""
        if draft.rows:
            data = parquet.write(draft.table())
            digest = hashlib.sha256(data).hexdigest()
            key = object_key(lease, draft.items, digest)
            self._at(Step.ENCODED)
            self._go_on(lease)
            self._store.put(key, data)
            self._at(Step.STORED)
        made = draft.replacement(key, digest)
        self._compactors.publish(lease, made)
        self._at(Step.PUBLISHED)
        self._count(lease.stream, made, tally)

    def _count(self, stream: str, made: Replacement, tally: Tally) -> None:
        tally.covers += 1
        tally.replaced += len(made.replaced)
        metrics.COVERS.labels(stream).inc()
        for reason, rows in zip(
            metrics.DROPPED_REASONS, (made.duplicates, made.erased, made.expired), strict=True
        ):
            tally.dropped[reason] += rows
            metrics.DROPPED_ROWS.labels(stream, reason).inc(rows)

    def _delete_retired(self, lease: CompactionLease, at_once: bool, tally: Tally) -> None:
        """Who has listed one of them and finds it gone lists again."""
        due_us = self._compactors.now_us() - int(self._pace.retired_seconds * SECOND_US)
        keys = self._compactors.retired(lease.stream, None if at_once else due_us)
        for at in range(0, len(keys), DELETED_AT_ONCE):
            some = keys[at : at + DELETED_AT_ONCE]
            for key in some:
                self._go_on(lease)
                self._store.delete(key)
                self._at(Step.DELETED)
            self._compactors.forget(some)
            self._at(Step.FORGOTTEN)
            tally.deleted += len(some)

    def _delete_dead_orphans(self, lease: CompactionLease) -> None:
        """What crashed sinks and compactors left may hold rows that were erased since."""
        orphans = find_orphans(self._ledger, self._store, lease.stream)
        for _ in delete_orphans(self._store, orphans, before_us=1 << 62):
            self._go_on(lease)

    def _go_on(self, lease: CompactionLease) -> None:
        """A sign of life now and then. Raises: StoppedError, FencedError, LedgerUnavailableError."""
        if self._stopped.is_set():
            raise StoppedError
        if time.monotonic() - self._kept_at > self._pace.lease_seconds / 4:
            self._compactors.keep(lease, self._pace.lease_seconds)
            self._kept_at = time.monotonic()


def object_key(lease: CompactionLease, items: Sequence[Served], sha256: str) -> str:
    """Names stream, sequences (both inclusive), epoch and content. By the epoch another compactor
    never has the same key: what one deletes as retired, no other has just made.
    """
    sequences = f"{items[0].first_sequence:020d}-{items[-1].sequence:020d}"
    return f"{lease.stream}/v1/compacted/{sequences}-{lease.epoch}-{sha256[:12]}.parquet"
