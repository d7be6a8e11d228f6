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
from services.feedback.lake.served_object import SEQUENCE, read_served
from services.feedback.lake.taken_back import take_back

# By how much the clocks of session and sink may differ.
SKEW_US = 7 * 86_400 * 1_000_000


@dataclass(frozen=True)
class Reach:
    """Objects that end at `since` or later may hold rows to leave out; None: no answer was taken
    back. Known of the turns up to a sequence, which is the next pass's to begin at.
    """

    since: int | None
    turns_sequence: int


def find_reach(
    ledger: Ledger,
    store: ObjectStore,
    stream: Stream,
    known_sequence: int,
    go_on: Callable[[], None] = lambda: None,
) -> Reach:
    """What turns after a sequence take back. `go_on` is called at each object.

    Raises:
        DamagedObjectError: a turn's object cannot be read, or was replaced since it was listed.
        ObjectStoreError, LedgerUnavailableError
    """
    oldest_us, reached = None, known_sequence
    for item in chain.from_iterable(ledger.served_pages(Stream.TURNS, known_sequence)):
        go_on()
        rows = read_served(store, item)
        new = rows.filter(pc.and_(take_back(rows), pc.greater(rows[SEQUENCE], known_sequence)))
        if new.num_rows:
            minted = min(map(minted_us, new["message_id"].to_pylist()))
            oldest_us = minted if oldest_us is None else min(minted, oldest_us)
        reached = item.sequence
    since = None if oldest_us is None else ledger.first_since(stream, oldest_us - SKEW_US)
    return Reach(since, reached)


def minted_us(message_id: str) -> int:
    """Microseconds since 1970, as UUIDv7 tells them to the millisecond; 0: the id does not tell."""
    found = uuid.UUID(message_id)
    return (found.int >> 80) * 1_000 if found.version == 7 else 0
