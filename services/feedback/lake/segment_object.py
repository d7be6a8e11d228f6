"""Verified reading of a segment's object as a table with a sequence column.

Compaction writes the sequences as a column. A sink cannot, because the object is stored before the
commit assigns the number.
"""

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from services.feedback.lake import parquet
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.object_store import ObjectMissingError, ObjectStore, ObjectStoreError

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
