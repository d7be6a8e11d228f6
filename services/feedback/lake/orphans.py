"""Orphans: objects without a row in the database, and the command that collects them.

Crashes, lost responses and fenced writers leave orphans. Readers never see them. Age alone does not
prove an orphan dead: a writer frozen for days between PUT and commit continues at the same point.
"""

import re
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice

from services.feedback.events import Stream
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore, StoredObject

# Each batch costs one pass over the names in the ledger.
OBJECTS_PER_BATCH = 50_000
# Keys made by compaction.object_key.
COMPACTED = re.compile(r"[a-z]+/v1/compacted/\d{20}-\d{20}-(?P<epoch>\d+)-[0-9a-f]{12}\.parquet")
# Keys made by sink.object_key.
KEY = re.compile(
    r"[a-z]+/v1/topic_id=(?P<topic_id>[^/]+)/partition=(?P<partition>\d+)/"
    r"(?P<start>\d{20})-\d{20}-[0-9a-f]{12}\.parquet"
)
UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Origin:
    """First offset of the batch of an object."""

    topic_id: str
    partition: int
    start_offset: int


@dataclass(frozen=True)
class Orphan:
    """Object without a row in the ledger.

    `dead` means that no commit can ever name the object: the ledger has passed its first offset, or
    its compactor is fenced.
    """

    key: str
    modified_us: int
    dead: bool


def find_orphans(
    ledger: Ledger, store: ObjectStore, stream: str, at_once: int = OBJECTS_PER_BATCH
) -> Iterator[Orphan]:
    """Yield all orphans of a stream in the order of the store's listing.

    Writers may run meanwhile.

    Raises:
        ObjectStoreError: The store does not answer.
        LedgerUnavailableError: The database does not answer.
    """
    stored = store.list(f"{stream}/")
    while batch := list(islice(stored, at_once)):
        yield from _orphans_among(ledger, stream, batch)


def _orphans_among(ledger: Ledger, stream: str, stored: Sequence[StoredObject]) -> Iterator[Orphan]:
    """Return the orphans in one batch of a listing.

    The order of the reads makes the result safe under concurrency. The names are read last: objects
    committed after the listing are among the names. The ends and the epoch are read before the
    names: objects committed later do not lie before those ends. Objects replaced meanwhile are
    found as retired.
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
    """Return the origin of an object, or None for keys of another form."""
    found = KEY.fullmatch(key)
    return (
        Origin(found["topic_id"], int(found["partition"]), int(found["start"])) if found else None
    )


def delete_orphans(
    store: ObjectStore, orphans: Iterable[Orphan], before_us: int
) -> Iterator[Orphan]:
    """Delete dead orphans last modified before a time, and yield each deleted orphan.

    Raises:
        ObjectStoreError: The store does not answer.
    """
    for orphan in orphans:
        if orphan.dead and orphan.modified_us < before_us:
            store.delete(orphan.key)
            yield orphan


def add_orphan_options(parser: ArgumentParser) -> None:
    """Add the options of the `orphans` command."""
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete dead orphans older than --older-than",
    )
    parser.add_argument(
        "--older-than",
        type=_duration_seconds,
        default="24h",
        metavar="24h",
        help="minimum age for deletion (default: 24h)",
    )


def collect_orphans(
    ledger: Ledger,
    store: ObjectStore,
    older_than_seconds: float,
    delete: bool,
    write_line: Callable[[str], None] = print,
) -> None:
    """List all orphans, one per line, and optionally delete old dead orphans.

    Raises:
        ObjectStoreError: The store does not answer.
        LedgerUnavailableError: The database does not answer.
    """
    before_us = time.time_ns() // 1_000 - int(older_than_seconds * 1_000_000) if delete else 0
    orphans = dead = deleted = 0
    for orphan in chain.from_iterable(find_orphans(ledger, store, stream) for stream in Stream):
        modified = datetime.fromtimestamp(orphan.modified_us / 1_000_000, UTC)
        # Kept at any age: the log may still commit the object, or another program has written it.
        state = "dead" if orphan.dead else "kept"
        write_line(f"{modified:%Y-%m-%dT%H:%M:%SZ} {state} {orphan.key}")
        orphans, dead = orphans + 1, dead + orphan.dead
        deleted += sum(1 for _ in delete_orphans(store, [orphan], before_us))
    write_line(f"orphans={orphans} dead={dead} deleted={deleted}")


def _duration_seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a duration such as 30m, 24h or 7d")
    return float(match[1]) * UNIT_SECONDS[match[2]]
