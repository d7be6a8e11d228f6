"""Objects that no ledger row names: what a crash, a lost answer or a fenced writer leaves in the store. No reader sees them.

Age alone does not show that one is dead: a writer that was frozen for days between PUT and commit goes on where it was.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from services.feedback.ledger import Ledger
from services.feedback.object_store import ObjectStore

# As sink.object_key makes them.
KEY = re.compile(
    r"[a-z]+/v1/topic_id=(?P<topic_id>[^/]+)/partition=(?P<partition>\d+)/(?P<start>\d{20})-\d{20}-[0-9a-f]{12}\.parquet"
)


@dataclass(frozen=True)
class Orphan:
    """`dead`: the ledger is past its first offset, so that no commit can ever name it."""

    key: str
    modified_us: int
    dead: bool


def find_orphans(ledger: Ledger, store: ObjectStore, stream: str) -> list[Orphan]:
    """All of a stream. The store is listed before the ledger is read: what is committed in between is no orphan.

    Raises:
        ObjectStoreError, LedgerUnavailableError
    """
    stored = list(store.list(f"{stream}/"))
    named = {segment.object_key for segment in ledger.segments(stream)}
    end_offset = cache(ledger.end_offset)

    def dead(key: str) -> bool:
        found = KEY.fullmatch(key)
        return found is not None and int(found["start"]) < end_offset(found["topic_id"], int(found["partition"]))

    return [Orphan(item.key, item.modified_us, dead(item.key)) for item in stored if item.key not in named]


def delete_orphans(store: ObjectStore, orphans: Iterable[Orphan], before_us: int) -> Iterator[Orphan]:
    """Delete the dead ones that were last written before a time; yields each after it is gone. Raises: ObjectStoreError."""
    for orphan in orphans:
        if orphan.dead and orphan.modified_us < before_us:
            store.delete(orphan.key)
            yield orphan
