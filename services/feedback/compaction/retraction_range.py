"""Range of segments affected by retracted answers.

No row is older than its answer, and the id of an answer contains its creation time. A segment
without a compacted form is read anyway once it has settled, so the range concerns segments that
were committed or compacted before the retraction was known.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import pyarrow.compute as pc

from services.feedback.events import Stream
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.readable_segments import SEQUENCE, read_segment
from services.feedback.lake.removed_rows import retraction_turns

# Maximum difference between the clocks of the session service and the sink.
MAX_CLOCK_SKEW_US = 7 * 86_400 * 1_000_000


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


def created_us(message_id: str) -> int:
    """Return the creation time of a UUIDv7 in microseconds since 1970, or 0 for other versions.

    The resolution is one millisecond.
    """
    found = uuid.UUID(message_id)
    return (found.int >> 80) * 1_000 if found.version == 7 else 0
