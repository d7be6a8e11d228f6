"""Readable segments of a stream, and the verified reading of their objects.

Readable are the compacted segments, and the segments without a compacted form. One statement reads
both tables, so that no reader gets a segment twice.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import pyarrow as pa
from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    Subquery,
    bindparam,
    case,
    cast,
    func,
    literal,
    null,
    select,
    union_all,
)

from services.feedback.lake import parquet
from services.feedback.lake.object_store import ObjectMissingError, ObjectStore, ObjectStoreError
from services.feedback.store import tables

STREAM = bindparam("of", type_=String)
AFTER = bindparam("after", type_=BigInteger)
LIMIT = bindparam("most", type_=BigInteger)
NO_NUMBER, NO_TEXT = literal(0, BigInteger), literal("", String)
# Page size for loops over a whole stream.
PAGE_SIZE = 10_000
# Upper bound for the last gap, after the newest compacted segment.
MAX_SEQUENCE = literal(2**63 - 1, BigInteger)


@dataclass(frozen=True)
class ReadableSegment:
    """Object with its sequences, `first_sequence` to `sequence`: a segment or a compacted segment.

    A compacted segment has no topic, partition and offsets of its own; the rows contain them
    together with their sequences. `duplicates`, `erased` and `expired` count the rows left out.
    `bytes` and `oldest_us` are known only for compacted segments.
    """

    stream: str
    first_sequence: int
    sequence: int
    topic_id: str
    partition: int
    start_offset: int
    end_offset: int
    object_key: str
    sha256: str
    rows: int
    dead_letters: int
    duplicates: int
    erased: int
    expired: int
    bytes: int
    oldest_us: int | None
    commit_us: int

    @property
    def is_compacted(self) -> bool:
        return not self.topic_id


def pages(
    read: Callable[[int], list[ReadableSegment]], after_sequence: int = 0
) -> Iterator[list[ReadableSegment]]:
    """Yield all pages; `read` returns the page after a sequence."""
    while page := read(after_sequence):
        yield page
        after_sequence = page[-1].sequence


def readable_segments(
    connection: Connection, stream: str, after_sequence: int = 0, limit: int | None = None
) -> list[ReadableSegment]:
    """Return the readable segments that end after a sequence, in order."""
    values = {STREAM.key: stream, AFTER.key: after_sequence} | (
        {} if limit is None else {LIMIT.key: limit}
    )
    return [
        ReadableSegment(**row._mapping)
        for row in connection.execute(_query(limit is not None), values)
    ]


@cache
def _query(is_limited: bool) -> Select[tuple[object, ...]]:
    """Build the query once, since building takes longer than running."""
    cover = tables.covers.c
    parts = [
        _uncovered(is_limited).subquery(),
        select(
            cover.stream,
            cover.first_sequence,
            cover.last_sequence.label("sequence"),
            NO_TEXT.label("topic_id"),
            NO_NUMBER.label("partition"),
            NO_NUMBER.label("start_offset"),
            NO_NUMBER.label("end_offset"),
            cover.object_key,
            cover.sha256,
            cover.rows,
            cover.dead_letters,
            cover.duplicates,
            cover.erased,
            cover.expired,
            cover.bytes,
            cover.oldest_us,
            cover.commit_us,
        )
        .where(cover.stream == STREAM, cover.last_sequence > AFTER)
        .order_by(cover.last_sequence)
        .limit(LIMIT if is_limited else None)
        .subquery(),
    ]
    both = union_all(*(select(part) for part in parts)).subquery()
    return select(both).order_by(both.c.sequence).limit(LIMIT if is_limited else None)


def _uncovered(is_limited: bool) -> Select[tuple[object, ...]]:
    """Select the segments in the gaps between compacted segments.

    Gaps are few: nearly all of the newest segments, and hardly any older segments.
    """
    segment, gaps = tables.segments.c, _gaps(is_limited)
    return (
        select(
            segment.stream,
            segment.sequence.label("first_sequence"),
            segment.sequence,
            segment.topic_id,
            segment.partition,
            segment.start_offset,
            segment.end_offset,
            segment.object_key,
            segment.sha256,
            segment.rows,
            segment.dead_letters,
            NO_NUMBER.label("duplicates"),
            NO_NUMBER.label("erased"),
            NO_NUMBER.label("expired"),
            NO_NUMBER.label("bytes"),
            cast(null(), BigInteger).label("oldest_us"),
            segment.commit_us,
        )
        .join_from(
            gaps,
            tables.segments,
            (segment.sequence > gaps.c.low) & (segment.sequence < gaps.c.high),
        )
        .where(segment.stream == STREAM)
    )


def _gaps(is_limited: bool) -> Subquery:
    """Select the gaps between compacted segments as exclusive bounds.

    Sequences have no holes, so the limit is applied to the gaps. Otherwise Postgres would sort all
    following segments for a single page.
    """
    cover = tables.covers.c
    edges = union_all(
        select(AFTER.label("first"), AFTER.label("last")),
        select(cover.first_sequence, cover.last_sequence).where(
            cover.stream == STREAM, cover.last_sequence > AFTER
        ),
    ).subquery()
    following = func.coalesce(func.lead(edges.c.first).over(order_by=edges.c.last), MAX_SEQUENCE)
    every = select(edges.c.last.label("low"), following.label("high")).subquery()
    gaps = select(every).where(every.c.high > every.c.low + 1).subquery()
    if not is_limited:
        return gaps
    before = func.sum(gaps.c.high - gaps.c.low - 1).over(order_by=gaps.c.low, rows=(None, -1))
    counted = select(
        gaps, func.coalesce(cast(before, BigInteger), NO_NUMBER).label("before")
    ).subquery()
    cut = counted.c.low + 1 + LIMIT - counted.c.before
    high = case((counted.c.high < cut, counted.c.high), else_=cut)
    return select(counted.c.low, high.label("high")).where(counted.c.before < LIMIT).subquery()


SEQUENCE = "sequence"


class DamagedObjectError(ObjectStoreError):
    """Object is missing or differs from the committed object; `field` is its key."""

    reason = "DAMAGED"


def read_segment(
    store: ObjectStore, item: ReadableSegment, columns: Sequence[str] | None = None
) -> pa.Table:
    """Return the rows of a segment in ledger order, with their sequences.

    A segment without an object has no rows and only the sequence column.

    Args:
        store: Store of the object.
        item: Segment or compacted segment.
        columns: Columns to read; None reads all.

    Raises:
        DamagedObjectError: The object is missing or differs from the committed object.
        ObjectStoreError: The store is unavailable.
    """
    if not item.object_key:
        return pa.table({SEQUENCE: pa.array([], pa.int64())})
    try:
        data = store.get(item.object_key)
    except ObjectMissingError as error:
        raise DamagedObjectError(
            f"object is missing: {item.object_key}", field=item.object_key, reason="MISSING"
        ) from error
    if hashlib.sha256(data).hexdigest() != item.sha256:
        raise DamagedObjectError(
            f"object differs from the committed hash: {item.object_key}",
            field=item.object_key,
            reason="MISMATCH",
        )
    try:
        table = parquet.read(data, columns)
    except pa.ArrowException as error:
        raise DamagedObjectError(
            f"object is unreadable: {item.object_key}", field=item.object_key
        ) from error
    if SEQUENCE in table.column_names:
        return table
    return table.append_column(SEQUENCE, pa.array([item.sequence] * table.num_rows, pa.int64()))
