"""How far back a pass must look because answers were taken back: no row is older than its answer,
and an id tells when that was minted.

What was never compacted is looked into anyway. So this is about covers, which hold what nobody knew
to be taken back.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import pyarrow.compute as pc

from services.feedback.events import Stream
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.retracted import retraction_turns
from services.feedback.lake.segment_object import SEQUENCE, read_segment

# By how much the clocks of session and sink may differ.
MAX_CLOCK_SKEW_US = 7 * 86_400 * 1_000_000


@dataclass(frozen=True)
class RetractionRange:
    """Objects that end at `since` or later may hold rows to leave out; None: no answer was taken
    back. Known of the turns up to a sequence, which is the next pass's to begin at.
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
    """What turns after a sequence take back. `go_on` is called at each object.

    Raises:
        DamagedObjectError: a turn's object cannot be read, or was replaced since it was listed.
        ObjectStoreError, LedgerUnavailableError
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
    """Microseconds since 1970, as UUIDv7 tells them to the millisecond; 0: the id does not tell."""
    found = uuid.UUID(message_id)
    return (found.int >> 80) * 1_000 if found.version == 7 else 0
