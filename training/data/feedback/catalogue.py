"""Committed objects of the feedback log, listed by a catalogue and verified when read.

Readers take the committed objects from ListSegments, never from the ledger's database or from a
listing of the store. Objects without a commit are ignored.
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
    """Error for a committed object with unavailable or unexpected content."""


class ObjectMissingError(CatalogueError):
    """Error for a listed object that the store no longer has.

    Compaction may delete objects after the listing, so callers list again and retry once.
    """

    reason = "MISSING"


@dataclass(frozen=True)
class Segment:
    """One committed object of the log.

    A segment covers the offsets [start_offset, end_offset) of one partition. A compacted segment
    covers the ledger sequences [first_sequence, sequence]; topic_id, partition and offsets are
    empty, because each row carries its own. object_key is empty for segments without rows.
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


@dataclass(frozen=True)
class AnswerOrigin:
    """Version of an answer and the arm of its user; "" for the version if none is recorded."""

    model_version: str
    arm: str


class Catalogue(Protocol):
    """List of the committed segments in ledger order."""

    def feedback_segments(self) -> Sequence[Segment]: ...

    def turn_segments(self) -> Sequence[Segment]: ...


class Objects(Protocol):
    """Store of the committed objects."""

    def get(self, key: str) -> bytes:
        """Return the complete content of an object.

        Raises:
            ObjectMissingError: the object does not exist.
            CatalogueError: the object cannot be read.
        """


class Directory:
    """Object store in a local directory."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def get(self, key: str) -> bytes:
        """Implement `Objects.get`. Keys outside the root are refused."""
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
    """Return the rows of a committed object.

    Raises:
        CatalogueError: the object is unavailable, or differs from its sha256 or its row count.
    """
    content = objects.get(segment.object_key)
    if hashlib.sha256(content).hexdigest() != segment.sha256:
        raise CatalogueError(
            f"sha256: {segment.object_key} differs from its ledger row",
            field="sha256",
            reason="MISMATCH",
        )
    # Read from bytes: given a path, pyarrow would add a column for the `partition=0` part.
    table = pq.ParquetFile(io.BytesIO(content)).read()
    if table.num_rows != segment.rows:
        raise CatalogueError(
            f"rows: {segment.object_key} has {table.num_rows}, its ledger row says {segment.rows}",
            field="rows",
            reason="MISMATCH",
            limit=str(segment.rows),
        )
    return table


def find_answer(catalogue: Catalogue, objects: Objects, message_id: str) -> AnswerOrigin | None:
    """Return version and arm of an answer, from its last revision; None if it is not in the log.

    Texts are not decrypted, so no consent is needed.

    Raises:
        CatalogueError: an object is unavailable or differs from the ledger.
    """
    for segment in reversed(catalogue.turn_segments()):
        if not segment.object_key:
            continue
        rows = read_segment(objects, segment).select(["message_id", "model_version", "arm"])
        matches = [row for row in rows.to_pylist() if row["message_id"] == message_id]
        if matches:
            return AnswerOrigin(matches[-1]["model_version"] or "", matches[-1]["arm"] or "")
    return None
