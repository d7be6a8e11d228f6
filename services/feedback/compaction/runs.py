"""Choice of the segments that a compaction pass rewrites.

Objects should grow to the target size while each row is rewritten only a few times. A compacted
segment is merged with its successors only when they weigh as much as the compacted segment. A row
is then rewritten as often as its object can double in size, instead of once per pass.

Segments that retracted answers may affect are read at any size. No row is older than its answer,
and the id of an answer contains its creation time. A segment without a compacted form is read
anyway once it has settled, so the range concerns segments that were committed or compacted before
the retraction was known.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow.compute as pc

from services.contracts.identifiers import created_us
from services.feedback.events import Stream
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.readable_segments import SEQUENCE, ReadableSegment, read_segment
from services.feedback.lake.removed_rows import retraction_turns

# Maximum difference between the clocks of the session service and the sink.
MAX_CLOCK_SKEW_US = 7 * 86_400 * 1_000_000


@dataclass(frozen=True)
class RunLimits:
    """Target size of a compacted object; bytes are those of the rows before encoding."""

    rows: int
    bytes: int

    def is_full(self, item: ReadableSegment) -> bool:
        """Return True if the segment is too large for merging."""
        return item.is_compacted and (2 * item.rows >= self.rows or 2 * item.bytes >= self.bytes)


@dataclass(frozen=True)
class Run:
    """Neighbouring segments in the order of the ledger.

    Without `merge` the run is a single segment, rewritten only if rows must be removed.
    """

    items: Sequence[ReadableSegment]
    merge: bool


def choose_runs(
    items: Iterable[ReadableSegment],
    limits: RunLimits,
    settled_us: int,
    needs_check: Callable[[ReadableSegment], bool],
) -> Iterator[Run]:
    """Yield runs in the order of the ledger.

    Args:
        items: Readable segments.
        limits: Target size of an object.
        settled_us: Segments committed after this time are not merged yet.
        needs_check: Returns True for segments that may contain rows to remove; these are read at
            any size.
    """
    group: list[ReadableSegment] = []
    rows = size = 0
    for item in items:
        is_alone = limits.is_full(item) or not (item.is_compacted or item.commit_us <= settled_us)
        # The bytes of segments are unknown before reading; compaction splits runs that grow too
        # large.
        if is_alone or rows + item.rows > limits.rows or size + item.bytes > limits.bytes:
            yield from _group_runs(group, needs_check)
            group, rows, size = [], 0, 0
        if not is_alone:
            group.append(item)
            rows, size = rows + item.rows, size + item.bytes
        elif needs_check(item):
            yield Run([item], merge=False)
    yield from _group_runs(group, needs_check)


def _group_runs(
    group: Sequence[ReadableSegment], needs_check: Callable[[ReadableSegment], bool]
) -> Iterator[Run]:
    while (
        group
        and group[0].is_compacted
        and (len(group) == 1 or group[0].rows > sum(item.rows for item in group[1:]))
    ):
        if needs_check(group[0]):
            yield Run(group[:1], merge=False)
        group = group[1:]
    if group:
        yield Run(group, merge=True)


@dataclass(frozen=True)
class RetractionRange:
    """Segments that may contain rows of retracted answers.

    Segments that end at sequence `since` or later are affected; None means no retracted answer.
    Turns up to `turns_sequence` were read; the next pass continues there.
    """

    since: int | None
    turns_sequence: int


def find_retraction_range(
    ledger: Ledger,
    store: ObjectStore,
    stream: Stream,
    known_sequence: int,
    on_object: Callable[[], None] = lambda: None,
) -> RetractionRange:
    """Find the range affected by retractions in turns after a sequence.

    Args:
        on_object: Called before each object.

    Raises:
        DamagedObjectError: The object of a turn is unreadable, or was replaced since the listing.
        ObjectStoreError: The store does not answer.
        LedgerUnavailableError: The database does not answer.
    """
    oldest_us, reached = None, known_sequence
    for item in chain.from_iterable(ledger.readable_pages(Stream.TURNS, known_sequence)):
        on_object()
        rows = read_segment(store, item)
        retractions = rows.filter(
            pc.and_(retraction_turns(rows), pc.greater(rows[SEQUENCE], known_sequence))
        )
        if retractions.num_rows:
            created = min(map(created_us, retractions["message_id"].to_pylist()))
            oldest_us = created if oldest_us is None else min(created, oldest_us)
        reached = item.sequence
    since = None if oldest_us is None else ledger.first_since(stream, oldest_us - MAX_CLOCK_SKEW_US)
    return RetractionRange(since, reached)
