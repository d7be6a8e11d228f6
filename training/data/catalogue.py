"""The committed objects of the feedback log, read and checked. Readers learn what counts from
ListSegments, never from the ledger's database or from listing the store: an object that nobody
committed is not there.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from training.errors import UnavailableError


class CatalogueError(UnavailableError):
    """A committed object cannot be had or is not the one that the ledger names; the text names it."""


class ObjectMissingError(CatalogueError):
    """A committed object is not there: compaction may have deleted it since it was listed, so list
    again.
    """

    reason = "MISSING"


@dataclass(frozen=True)
class Segment:
    """One committed object: offsets [start, end) of a partition, or, compacted, sequences
    [first_sequence, sequence] of the ledger.

    A compacted one has no topic_id, partition and offsets: its rows tell theirs. object_key is
    empty where there are no rows.
    """

    sequence: int
    topic_id: str
    partition: int
    start_offset: int
    end_offset: int
    object_key: str
    sha256: str
    rows: int
    first_sequence: int = 0

    @property
    def is_compacted(self) -> bool:
        return not self.topic_id


class Catalogue(Protocol):
    """Lists what is committed, in ledger order."""

    def feedback_segments(self) -> Sequence[Segment]: ...

    def turn_segments(self) -> Sequence[Segment]: ...


class Objects(Protocol):
    """Where the committed objects lie."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises: ObjectMissingError, CatalogueError."""


class Directory:
    """A directory object store."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def get(self, key: str) -> bytes:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root):
            raise CatalogueError(
                f"object_key: {key} lies outside the store",
                field="object_key",
                reason="OUT_OF_RANGE",
            )
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissingError(
                f"object_key: {key} is committed but missing", field="object_key"
            ) from error


def read_segment(objects: Objects, segment: Segment) -> pa.Table:
    """The rows of a committed object.

    Raises:
        CatalogueError: it cannot be had, or differs from its sha256 or its row count.
    """
    content = objects.get(segment.object_key)
    if hashlib.sha256(content).hexdigest() != segment.sha256:
        raise CatalogueError(
            f"sha256: {segment.object_key} differs from its ledger row",
            field="sha256",
            reason="MISMATCH",
        )
    # From bytes: given a path, pyarrow would read `partition=0` in it as a column.
    table = pq.ParquetFile(io.BytesIO(content)).read()
    if table.num_rows != segment.rows:
        raise CatalogueError(
            f"rows: {segment.object_key} has {table.num_rows}, its ledger row says {segment.rows}",
            field="rows",
            reason="MISMATCH",
            limit=str(segment.rows),
        )
    return table
