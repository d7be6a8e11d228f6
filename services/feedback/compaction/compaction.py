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
from services.feedback.compaction.compacted_draft import CompactedDraft
from services.feedback.compaction.compactors import CompactionLease, Compactors, Replacement
from services.feedback.compaction.retraction_range import RetractionRange, find_retraction_range
from services.feedback.compaction.row_filter import ErasedRows, RowFilter
from services.feedback.compaction.runs import Run, RunLimits, choose_runs
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.ledger import FencedError, Ledger, LedgerUnavailableError
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import delete_orphans, find_orphans
from services.feedback.lake.segment_object import DamagedObjectError, read_segment

log = logging.getLogger(__name__)

DELETIONS_PER_BATCH = 100
SECOND_US = 1_000_000


class StoppedError(Exception):
    """The process is about to end; the rest is the next pass's."""


class Erasures(Protocol):
    """Knows which rows are gone."""

    def for_stream(self, stream: Stream) -> ErasedRows:
        """As of now. Raises: LedgerUnavailableError."""


class CompactionStep(StrEnum):
    """Where a crash can fall."""

    LISTED = "listed"
    READ = "read"
    ENCODED = "encoded"
    STORED = "stored"
    PUBLISHED = "published"
    DELETED = "deleted"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class CompactionOptions:
    """How large objects get, and when. `keep_seconds` 0: rows never expire. Replaced objects stay
    `retired_seconds`.
    """

    limits: RunLimits
    settle_seconds: float
    keep_seconds: float
    retired_seconds: float
    lease_seconds: float


@dataclass
class PassResult:
    """What a pass has done. `whole`: nothing that it should have done was left undone. What turns
    up to `turns_sequence` take back is left out.
    """

    complete: bool = True
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
        options: CompactionOptions,
        on_step: Callable[[CompactionStep], None] = lambda step: None,
    ) -> None:
        self._ledger, self._compactors, self._store, self._erasures = (
            ledger,
            compactors,
            store,
            erasures,
        )
        self._options, self._on_step = options, on_step
        self._stopped = threading.Event()
        self._renewed_at = 0.0

    def stop(self) -> None:
        """Let a pass that runs in another thread end at its next step, with StoppedError."""
        self._stopped.set()

    def run(self, stream: Stream, every_seconds: float = 0.0) -> PassResult | None:
        """One pass; None: another process compacts this stream, or a whole pass ended less than
        `every_seconds` ago.

        Raises:
            FencedError: another process has taken over; it does the rest.
            ObjectStoreError, LedgerUnavailableError, StoppedError: what is published counts, the
            rest waits for the next pass.
        """
        lease = self._compactors.acquire(stream, self._options.lease_seconds, every_seconds)
        if lease is None:
            return None
        result = PassResult(complete=False)
        self._renewed_at = time.monotonic()
        try:
            result = self._pass(stream, lease)
        finally:
            with suppress(FencedError, LedgerUnavailableError):
                self._compactors.release(lease, result.turns_sequence if result.complete else None)
        log.info(
            "stream compacted",
            extra=fields(
                stream=stream,
                complete=result.complete,
                replaced=result.replaced,
                covers=result.covers,
                deleted=result.deleted,
                **result.dropped,
            ),
        )
        return result

    def last_pass_us(self, stream: Stream) -> int | None:
        """When the last whole pass ended, whoever made it. Raises: LedgerUnavailableError."""
        return self._compactors.last_pass_us(stream)

    def _pass(self, stream: Stream, lease: CompactionLease) -> PassResult:
        result, now_us = PassResult(), self._compactors.now_us()
        retractions = self._find_retractions(stream, lease, result)
        erased = self._erasures.for_stream(stream)
        is_rewrite_pending, through_sequence = (
            erased.through_sequence is not None,
            erased.through_sequence or 0,
        )
        cutoff_us = (
            now_us - int(self._options.keep_seconds * SECOND_US)
            if self._options.keep_seconds
            else 0
        )

        def needs_check(item: ReadableSegment) -> bool:
            is_reached = retractions.since is not None and item.sequence >= retractions.since
            return (
                is_reached
                or item.first_sequence <= through_sequence
                or (item.oldest_us or cutoff_us) < cutoff_us
            )

        settled_us = now_us - int(self._options.settle_seconds * SECOND_US)
        for run in choose_runs(self._served(stream), self._options.limits, settled_us, needs_check):
            self._compact_run(
                lease, run, RowFilter(erased, self._ledger.retracted_answers, cutoff_us), result
            )
        self._delete_retired(lease, is_rewrite_pending, result)
        if result.complete and (is_rewrite_pending or retractions.since is not None):
            self._delete_dead_orphans(lease)
        if result.complete and is_rewrite_pending:
            erased.mark_rewritten()
        return result

    def _find_retractions(
        self, stream: Stream, lease: CompactionLease, result: PassResult
    ) -> RetractionRange:
        """Where an object of the turns cannot be read, nobody knows what it takes back: then what
        is known already is all.
        """
        try:
            found = find_retraction_range(
                self._ledger,
                self._store,
                stream,
                lease.turns_sequence,
                lambda: self._renew_lease(lease),
            )
        except DamagedObjectError as error:
            result.complete = False
            log.warning(
                "turns that take back could not be looked for",
                extra=fields(stream=stream, why=str(error)),
            )
            return RetractionRange(None, lease.turns_sequence)
        result.turns_sequence = found.turns_sequence
        return found

    def _served(self, stream: Stream) -> Iterator[ReadableSegment]:
        """What is published meanwhile lies before the next page."""
        for page in self._ledger.readable_pages(stream):
            self._on_step(CompactionStep.LISTED)
            yield from page

    def _compact_run(
        self, lease: CompactionLease, run: Run, row_filter: RowFilter, result: PassResult
    ) -> None:
        draft = CompactedDraft()
        for item in run.items:
            self._renew_lease(lease)
            try:
                draft.add(item, row_filter.filter(read_segment(self._store, item)))
            except DamagedObjectError as error:
                # Nothing may be published over it: what is left of it may still be mended.
                self._skip_damaged(lease, item, error, result)
                self._publish(lease, draft, run.merge, result)
                draft = CompactedDraft()
            self._on_step(CompactionStep.READ)
            if draft.rows >= self._options.limits.rows or draft.bytes >= self._options.limits.bytes:
                self._publish(lease, draft, run.merge, result)
                draft = CompactedDraft()
        self._publish(lease, draft, run.merge, result)

    def _skip_damaged(
        self,
        lease: CompactionLease,
        item: ReadableSegment,
        error: DamagedObjectError,
        result: PassResult,
    ) -> None:
        """Raises: FencedError: whoever has taken over may have deleted the object, and nothing is
        damaged.
        """
        self._compactors.renew(lease, self._options.lease_seconds)
        result.complete = False
        metrics.COMPACTION_FAILURES.labels(lease.stream, type(error).__name__).inc()
        log.error(
            "object is damaged",
            extra=fields(stream=lease.stream, sequence=item.sequence, why=str(error)),
        )

    def _publish(
        self, lease: CompactionLease, draft: CompactedDraft, merge: bool, result: PassResult
    ) -> None:
        if not draft.is_worth_it(merge):
            return
        key, digest = "", ""
        if draft.rows:
            data = parquet.write(draft.table())
            digest = hashlib.sha256(data).hexdigest()
            key = object_key(lease, draft.items, digest)
            self._on_step(CompactionStep.ENCODED)
            self._renew_lease(lease)
            self._store.put(key, data)
            self._on_step(CompactionStep.STORED)
        replacement = draft.replacement(key, digest)
        self._compactors.publish(lease, replacement)
        self._on_step(CompactionStep.PUBLISHED)
        self._count(lease.stream, replacement, result)

    def _count(self, stream: str, replacement: Replacement, result: PassResult) -> None:
        result.covers += 1
        result.replaced += len(replacement.replaced)
        metrics.COVERS.labels(stream).inc()
        for reason, rows in zip(
            metrics.DROPPED_REASONS,
            (replacement.duplicates, replacement.erased, replacement.expired),
            strict=True,
        ):
            result.dropped[reason] += rows
            metrics.DROPPED_ROWS.labels(stream, reason).inc(rows)

    def _delete_retired(self, lease: CompactionLease, at_once: bool, result: PassResult) -> None:
        """Who has listed one of them and finds it gone lists again."""
        due_us = self._compactors.now_us() - int(self._options.retired_seconds * SECOND_US)
        keys = self._compactors.retired(lease.stream, None if at_once else due_us)
        for on_step in range(0, len(keys), DELETIONS_PER_BATCH):
            batch = keys[on_step : on_step + DELETIONS_PER_BATCH]
            for key in batch:
                self._renew_lease(lease)
                self._store.delete(key)
                self._on_step(CompactionStep.DELETED)
            self._compactors.forget_retired(batch)
            self._on_step(CompactionStep.FORGOTTEN)
            result.deleted += len(batch)

    def _delete_dead_orphans(self, lease: CompactionLease) -> None:
        """What crashed sinks and compactors left may hold rows that were erased since."""
        orphans = find_orphans(self._ledger, self._store, lease.stream)
        for _ in delete_orphans(self._store, orphans, before_us=1 << 62):
            self._renew_lease(lease)

    def _renew_lease(self, lease: CompactionLease) -> None:
        """A sign of life now and then. Raises: StoppedError, FencedError, LedgerUnavailableError."""
        if self._stopped.is_set():
            raise StoppedError
        if time.monotonic() - self._renewed_at > self._options.lease_seconds / 4:
            self._compactors.renew(lease, self._options.lease_seconds)
            self._renewed_at = time.monotonic()


def object_key(lease: CompactionLease, items: Sequence[ReadableSegment], sha256: str) -> str:
    """Names stream, sequences (both inclusive), epoch and content. By the epoch another compactor
    never has the same key: what one deletes as retired, no other has just made.
    """
    sequences = f"{items[0].first_sequence:020d}-{items[-1].sequence:020d}"
    return f"{lease.stream}/v1/compacted/{sequences}-{lease.epoch}-{sha256[:12]}.parquet"
