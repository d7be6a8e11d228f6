"""One compaction pass over a stream; blocking.

Small objects are merged, and repeated, erased and expired rows are removed. A compacted segment is
published in one transaction after its object is stored; replaced objects are deleted later. After a
crash at any moment readers see either the state before or the state after, and at worst an orphan
remains.
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

import pyarrow as pa

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.compaction.compactors import CompactionLease, Compactors, Replacement
from services.feedback.compaction.row_filter import ErasedRows, FilteredRows, RowFilter
from services.feedback.compaction.runs import (
    RetractionRange,
    Run,
    RunLimits,
    choose_runs,
    find_retraction_range,
)
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import delete_orphans, find_orphans
from services.feedback.lake.readable_segments import (
    DamagedObjectError,
    ReadableSegment,
    read_segment,
)
from services.feedback.store.database import FencedError, LedgerUnavailableError

log = logging.getLogger(__name__)

DELETIONS_PER_BATCH = 100
SECOND_US = 1_000_000


class StoppedError(Exception):
    """Process is about to end; the next pass does the rest."""


class Erasures(Protocol):
    """Source of the erased rows of a stream."""

    def for_stream(self, stream: Stream) -> ErasedRows:
        """Return the rows erased so far.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """


class CompactionStep(StrEnum):
    """Steps of a pass, used by tests to inject crashes."""

    LISTED = "listed"
    READ = "read"
    ENCODED = "encoded"
    STORED = "stored"
    PUBLISHED = "published"
    DELETED = "deleted"
    FORGOTTEN = "forgotten"


@dataclass(frozen=True)
class CompactionOptions:
    """Sizes and schedule of compaction.

    `keep_seconds` 0 means that rows never expire. Replaced objects stay for `retired_seconds`.
    """

    limits: RunLimits
    settle_seconds: float
    keep_seconds: float
    retired_seconds: float
    lease_seconds: float


@dataclass
class PassResult:
    """Outcome of a pass.

    `complete` is False if any due work was left undone. Answers retracted by turns up to
    `turns_sequence` have been removed.
    """

    complete: bool = True
    turns_sequence: int = 0
    replaced: int = 0
    covers: int = 0
    deleted: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


class CompactedDraft:
    """Neighbouring segments in the order of the ledger, with their filtered rows."""

    def __init__(self) -> None:
        self.items: list[ReadableSegment] = []
        self.filtered: list[FilteredRows] = []
        self.rows = self.bytes = 0

    def add(self, item: ReadableSegment, filtered: FilteredRows) -> None:
        self.items.append(item)
        self.filtered.append(filtered)
        self.rows += filtered.rows.num_rows
        self.bytes += filtered.rows.nbytes

    @property
    def dropped(self) -> int:
        return sum(filtered.dropped for filtered in self.filtered)

    def is_worthwhile(self, merge: bool) -> bool:
        """Return False if publishing would only reproduce an existing compacted segment."""
        is_more = len(self.items) > 1 or any(not item.is_compacted for item in self.items)
        return self.dropped > 0 or (merge and is_more)

    def table(self) -> pa.Table:
        """Return all rows in ledger order, with columns united by name."""
        return pa.concat_tables(
            [filtered.rows for filtered in self.filtered if filtered.rows.num_rows],
            promote_options="default",
        )

    def replacement(self, object_key: str, sha256: str) -> Replacement:
        oldest = [
            filtered.oldest_us for filtered in self.filtered if filtered.oldest_us is not None
        ]
        return Replacement(
            replaced=self.items,
            object_key=object_key,
            sha256=sha256,
            rows=self.rows,
            duplicates=sum(filtered.duplicates for filtered in self.filtered),
            erased=sum(filtered.erased for filtered in self.filtered),
            expired=sum(filtered.expired for filtered in self.filtered),
            bytes=self.bytes,
            oldest_us=min(oldest, default=None),
            retracted_answers={
                about for filtered in self.filtered for about in filtered.retracted_answers
            },
        )


class Compaction:
    """Compaction of streams, one after another.

    Args:
        on_step: Called at each step, so that tests can inject crashes.
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
        self._ledger = ledger
        self._compactors = compactors
        self._store = store
        self._erasures = erasures
        self._options, self._on_step = options, on_step
        self._stopped = threading.Event()
        self._renewed_at = 0.0

    def stop(self) -> None:
        """Let a pass in another thread end at its next step with StoppedError."""
        self._stopped.set()

    def run(self, stream: Stream, every_seconds: float = 0.0) -> PassResult | None:
        """Run one pass.

        Returns None if another process compacts the stream, or a complete pass ended less than
        `every_seconds` ago.

        Raises:
            FencedError: Another process has taken over and does the rest.
            ObjectStoreError: Published work counts; the rest waits for the next pass.
            LedgerUnavailableError: As ObjectStoreError.
            StoppedError: As ObjectStoreError.
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
        """Return the end of the last complete pass of any process.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        return self._compactors.last_pass_us(stream)

    def _pass(self, stream: Stream, lease: CompactionLease) -> PassResult:
        result, now_us = PassResult(), self._compactors.now_us()
        retractions = self._find_retractions(stream, lease, result)
        erased = self._erasures.for_stream(stream)
        is_rewrite_pending = erased.through_sequence is not None
        through_sequence = erased.through_sequence or 0
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
            # Orphans of crashed sinks and compactors may contain rows erased since.
            orphans = find_orphans(self._ledger, self._store, lease.stream)
            for _ in delete_orphans(self._store, orphans, before_us=1 << 62):
                self._renew_lease(lease)
        # Only a complete pass proves that no object, not even an orphan, still contains erased
        # rows.
        if result.complete and is_rewrite_pending:
            erased.mark_rewritten()
        return result

    def _find_retractions(
        self, stream: Stream, lease: CompactionLease, result: PassResult
    ) -> RetractionRange:
        """Return the range of sequences affected by newly retracted answers.

        If an object of the turns is unreadable, its retractions are unknown and the range of the
        previous pass remains.
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
                "retracting turns could not be read",
                extra=fields(stream=stream, why=str(error)),
            )
            return RetractionRange(None, lease.turns_sequence)
        result.turns_sequence = found.turns_sequence
        return found

    def _served(self, stream: Stream) -> Iterator[ReadableSegment]:
        """Yield the readable segments; segments published meanwhile lie before the next page."""
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
                # Never publish over a damaged object, since the rest of the object may still be
                # repaired.
                # Renewal comes first: another process that has taken over may have deleted the
                # object, so a fenced compactor records no damage.
                self._compactors.renew(lease, self._options.lease_seconds)
                result.complete = False
                metrics.COMPACTION_FAILURES.labels(lease.stream, type(error).__name__).inc()
                log.error(
                    "object is damaged",
                    extra=fields(stream=lease.stream, sequence=item.sequence, why=str(error)),
                )
                self._publish(lease, draft, run.merge, result)
                draft = CompactedDraft()
            self._on_step(CompactionStep.READ)
            if draft.rows >= self._options.limits.rows or draft.bytes >= self._options.limits.bytes:
                self._publish(lease, draft, run.merge, result)
                draft = CompactedDraft()
        self._publish(lease, draft, run.merge, result)

    def _publish(
        self, lease: CompactionLease, draft: CompactedDraft, merge: bool, result: PassResult
    ) -> None:
        if not draft.is_worthwhile(merge):
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
        # Publishing checks the lease again: a compactor that was frozen during the upload is fenced
        # here, and its object remains an orphan.
        self._compactors.publish(lease, replacement)
        self._on_step(CompactionStep.PUBLISHED)
        result.covers += 1
        result.replaced += len(replacement.replaced)
        metrics.COVERS.labels(lease.stream).inc()
        for reason, rows in zip(
            metrics.DROPPED_REASONS,
            (replacement.duplicates, replacement.erased, replacement.expired),
            strict=True,
        ):
            result.dropped[reason] += rows
            metrics.DROPPED_ROWS.labels(lease.stream, reason).inc(rows)

    def _delete_retired(self, lease: CompactionLease, at_once: bool, result: PassResult) -> None:
        """Delete replaced objects. Readers with an older listing repeat the listing."""
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

    def _renew_lease(self, lease: CompactionLease) -> None:
        """Renew the lease periodically.

        Raises:
            StoppedError: The process is about to end.
            FencedError: Another process has taken over.
            LedgerUnavailableError: The database does not answer.
        """
        if self._stopped.is_set():
            raise StoppedError
        if time.monotonic() - self._renewed_at > self._options.lease_seconds / 4:
            self._compactors.renew(lease, self._options.lease_seconds)
            self._renewed_at = time.monotonic()


def object_key(lease: CompactionLease, items: Sequence[ReadableSegment], sha256: str) -> str:
    """Return the key of a compacted object: stream, sequences (inclusive), epoch, hash.

    The epoch separates compactors: an object deleted as retired by one compactor is never an object
    just written by another.
    """
    sequences = f"{items[0].first_sequence:020d}-{items[-1].sequence:020d}"
    return f"{lease.stream}/v1/compacted/{sequences}-{lease.epoch}-{sha256[:12]}.parquet"
