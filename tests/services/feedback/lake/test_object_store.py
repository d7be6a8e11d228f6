"""Contract of object stores: atomic objects under keys inside the store.

The tests run on a directory and on S3.
"""

import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.feedback.lake.object_store import (
    Directory,
    ObjectMissingError,
    ObjectStore,
    ObjectStoreError,
    StoredObject,
    load_objects,
    save_objects,
)
from tests.s3_server import S3Server, serving
from tests.services.feedback.lake.object_store_contract import (
    test_a_key_is_kept_as_given,
    test_a_second_put_replaces_the_whole_object,
    test_deletion_is_idempotent,
    test_stored_objects_are_returned_and_listed_by_prefix,
)
from tests.services.feedback.s3_stores import store_at
from tests.support.errors import refused

__all__ = [
    "test_a_key_is_kept_as_given",
    "test_a_second_put_replaces_the_whole_object",
    "test_deletion_is_idempotent",
    "test_stored_objects_are_returned_and_listed_by_prefix",
]


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "directory":
        yield Directory(tmp_path / "root")
        return
    server = S3Server()
    server.buckets["thumbs"] = {}
    with serving(server) as port:
        yield store_at(port)


@pytest.mark.parametrize(
    "key", ["", "/etc/passwd", "../out", "a/../../out", ".", "a//b", "a/./b", "a/"]
)
def test_a_key_cannot_leave_the_store(store: ObjectStore, key: str) -> None:
    for call in (lambda: store.put(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with refused(ObjectStoreError, field="key", reason="MALFORMED"):
            call()


def test_a_directory_reports_modification_times(tmp_path: Path) -> None:
    store, before_us = Directory(tmp_path), time.time_ns() // 1_000
    store.put("a", b"")
    (found,) = store.list("")
    assert before_us - 1_000_000 <= found.modified_us <= time.time_ns() // 1_000


def test_a_missing_object_differs_from_a_failing_directory(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissingError):
        Directory(tmp_path).get("nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ObjectStoreError) as caught:
        Directory(tmp_path).put("file/below", b"")
    assert not isinstance(caught.value, ObjectMissingError)


def test_the_draft_of_a_killed_put_is_not_an_object(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".draft-0123").write_bytes(b"half")
    assert list(Directory(tmp_path).list("a")) == []


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
    assert save_objects(filled(tmp_path / "old"), stream) == len(OBJECTS)
    other = Directory(tmp_path / "new")
    for _ in range(2):
        stream.seek(0)
        assert load_objects(other, stream) == len(OBJECTS)
    assert content(other) == OBJECTS


def test_objects_deleted_during_the_backup_are_skipped(tmp_path: Path) -> None:
    class Compacted(Directory):
        def list(self, prefix: str) -> Iterator[StoredObject]:
            yield from super().list(prefix)
            yield StoredObject("turns/v1/gone", 0)

    filled(tmp_path)
    assert save_objects(Compacted(tmp_path), io.BytesIO()) == len(OBJECTS)


def test_a_truncated_backup_is_rejected(tmp_path: Path) -> None:
    stream = io.BytesIO()
    save_objects(filled(tmp_path / "old"), stream)
    with pytest.raises(tarfile.ReadError):
        load_objects(Directory(tmp_path / "new"), io.BytesIO(stream.getvalue()[:2_000]))
