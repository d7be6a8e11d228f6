"""Catalogue of the feedback table: the version of an answer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.data.feedback.catalogue import AnswerOrigin, Directory, Segment, find_answer


class _Listed:
    """Catalogue with segments of turns written to a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segments: list[Segment] = []

    def add(self, *rows: tuple[str, str, str]) -> None:
        """Commit a segment with rows of message id, version and arm; without rows, no object."""
        number = len(self._segments)
        key, digest = "", ""
        if rows:
            key = f"{number}.parquet"
            columns = dict(
                zip(("message_id", "model_version", "arm"), zip(*rows, strict=True), strict=True)
            )
            pq.write_table(
                pa.table({name: list(found) for name, found in columns.items()}), self._folder / key
            )
            digest = hashlib.sha256((self._folder / key).read_bytes()).hexdigest()
        self._segments.append(Segment(number, "t", 0, 0, len(rows), key, digest, len(rows)))

    def feedback_segments(self) -> Sequence[Segment]:
        return []

    def turn_segments(self) -> Sequence[Segment]:
        return self._segments


@pytest.fixture
def listed(tmp_path: Path) -> _Listed:
    listed = _Listed(tmp_path)
    listed.add(("m1", "nano-0", "stable"), ("m2", "nano-0", "stable"))
    listed.add()
    listed.add(("m1", "nano-1", "candidate"))
    return listed


@pytest.mark.parametrize(
    ("message_id", "origin"),
    [
        ("m1", AnswerOrigin("nano-1", "candidate")),  # the last revision
        ("m2", AnswerOrigin("nano-0", "stable")),
        ("m3", None),
    ],
)
def test_an_answer_is_found_with_the_version_of_its_last_revision(
    listed: _Listed, tmp_path: Path, message_id: str, origin: AnswerOrigin | None
) -> None:
    assert find_answer(listed, Directory(tmp_path), message_id) == origin
