"""Backup of objects: complete restore, and rejection of a truncated backup."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.feedback.lake import archive
from services.feedback.lake.object_store import Directory, StoredObject

OBJECTS = {
    "feedback/v1/one.parquet": b"1" * 3_000,
    "turns/v1/a/two.parquet": b"2",
    "turns/v1/empty": b"",
}


def filled(folder: Path) -> Directory:
    store = Directory(folder)
    for key, data in OBJECTS.items():
        store.put(key, data)
    return store


def content(store: Directory) -> dict[str, bytes]:
    return {found.key: store.get(found.key) for found in store.list("")}


def test_all_objects_are_restored_also_twice(tmp_path: Path) -> None:
    stream = io.BytesIO()
    assert archive.save(filled(tmp_path / "old"), stream) == len(OBJECTS)
    other = Directory(tmp_path / "new")
    for _ in range(2):
        stream.seek(0)
        assert archive.load(other, stream) == len(OBJECTS)
    assert content(other) == OBJECTS


def test_objects_deleted_during_the_backup_are_skipped(tmp_path: Path) -> None:
    class Compacted(Directory):
        def list(self, prefix: str) -> Iterator[StoredObject]:
            yield from super().list(prefix)
            yield StoredObject("turns/v1/gone", 0)

    filled(tmp_path)
    assert archive.save(Compacted(tmp_path), io.BytesIO()) == len(OBJECTS)


def test_a_truncated_backup_is_rejected(tmp_path: Path) -> None:
    stream = io.BytesIO()
    archive.save(filled(tmp_path / "old"), stream)
    with pytest.raises(tarfile.ReadError):
        archive.load(Directory(tmp_path / "new"), io.BytesIO(stream.getvalue()[:2_000]))
