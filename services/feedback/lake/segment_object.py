"""The object of a segment or a cover as a table: checked against the ledger, and every row knows
its segment's sequence.

Compaction writes the sequences down as a column. A sink cannot: it has put its object before the
commit that gives the number.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from services.feedback.lake import parquet
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.object_store import ObjectMissingError, ObjectStore, ObjectStoreError

SEQUENCE = "sequence"


class DamagedObjectError(ObjectStoreError):
    """The object is missing or not what was committed; `field` is its key."""

    reason = "DAMAGED"


def read_segment(
    store: ObjectStore, item: ReadableSegment, columns: Sequence[str] | None = None
) -> pa.Table:
    """Its rows in ledger order. What has no object has no rows, and no columns but the sequence.
    `columns`: no more than these.

    Raises:
        DamagedObjectError: its object is missing, or is not what was committed.
        ObjectStoreError: the store is away.
    """
    if not item.object_key:
        return pa.table({SEQUENCE: pa.array([], pa.int64())})
    try:
        data = store.get(item.object_key)
    except ObjectMissingError as error:
        raise DamagedObjectError(
            f"its object is missing: {item.object_key}", field=item.object_key, reason="MISSING"
        ) from error
    if hashlib.sha256(data).hexdigest() != item.sha256:
        raise DamagedObjectError(
            f"its object is not what was committed: {item.object_key}",
            field=item.object_key,
            reason="MISMATCH",
        )
    try:
        table = parquet.read(data, columns)
    except pa.ArrowException as error:
        raise DamagedObjectError(
            f"its object cannot be read: {item.object_key}", field=item.object_key
        ) from error
    if SEQUENCE in table.column_names:
        return table
    return table.append_column(SEQUENCE, pa.array([item.sequence] * table.num_rows, pa.int64()))
