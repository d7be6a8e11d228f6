"""Objects that nothing in the database names: what a crash, a lost answer or a fenced writer leaves
in the store. No reader sees them.

Age alone does not show that one is dead: a writer that was frozen for days between PUT and commit
goes on where it was.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore, StoredObject

# The names are gone through once for so many.
OBJECTS_PER_BATCH = 50_000
# As compaction.object_key makes them.
COMPACTED = re.compile(r"[a-z]+/v1/compacted/\d{20}-\d{20}-(?P<epoch>\d+)-[0-9a-f]{12}\.parquet")
# As sink.object_key makes them.
KEY = re.compile(
    r"[a-z]+/v1/topic_id=(?P<topic_id>[^/]+)/partition=(?P<partition>\d+)/(?P<start>\d{20})-\d{20}-[0-9a-f]{12}\.parquet"
)


@dataclass(frozen=True)
class Origin:
    """The batch that an object was made for: where it begins."""

    topic_id: str
    partition: int
    start_offset: int


@dataclass(frozen=True)
class Orphan:
    """`dead`: nothing can ever name it. The ledger is past its first offset, or the compactor that
    made it is fenced.
    """

    key: str
    modified_us: int
    dead: bool


def find_orphans(
    ledger: Ledger, store: ObjectStore, stream: str, at_once: int = OBJECTS_PER_BATCH
) -> Iterator[Orphan]:
    """All of a stream, while it is written, in the order of the store's listing.

    Raises:
        ObjectStoreError, LedgerUnavailableError
    """
    stored = store.list(f"{stream}/")
    while batch := list(islice(stored, at_once)):
        yield from _orphans_among(ledger, stream, batch)


def _orphans_among(ledger: Ledger, stream: str, stored: Sequence[StoredObject]) -> Iterator[Orphan]:
    """The order is the proof: what is committed after the listing is named when the names are read,
    and what is committed after the ends and the epoch were read does not lie before them. What is
    replaced in between is named as retired.
    """
    origins = {item.key: origin for item in stored if (origin := origin_of(item.key))}
    partitions = {(origin.topic_id, origin.partition) for origin in origins.values()}
    ends = {place: ledger.end_offset(*place) for place in partitions}
    epoch = ledger.compaction_epoch(stream)
    unnamed = {item.key: item for item in stored}
    for item in chain.from_iterable(ledger.readable_pages(stream)):
        unnamed.pop(item.object_key, None)
    retired = ledger.retired(unnamed)

    def dead(key: str) -> bool:
        origin = origins.get(key)
        if found := COMPACTED.fullmatch(key):
            return int(found["epoch"]) < epoch
        return origin is not None and origin.start_offset < ends[origin.topic_id, origin.partition]

    return (
        Orphan(key, item.modified_us, dead(key))
        for key, item in unnamed.items()
        if key not in retired
    )


def origin_of(key: str) -> Origin | None:
    """None: no sink has made this key."""
    found = KEY.fullmatch(key)
    return (
        Origin(found["topic_id"], int(found["partition"]), int(found["start"])) if found else None
    )


def delete_orphans(
    store: ObjectStore, orphans: Iterable[Orphan], before_us: int
) -> Iterator[Orphan]:
    """Delete the dead ones that were last written before a time; yields each after it is gone.
    Raises: ObjectStoreError.
    """
    for orphan in orphans:
        if orphan.dead and orphan.modified_us < before_us:
            store.delete(orphan.key)
            yield orphan
