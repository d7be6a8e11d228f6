"""Tests that every object store passes; a test module defines the fixture `store`."""

import pytest

from services.feedback.lake.object_store import ObjectMissingError, ObjectStore


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return sorted(found.key for found in store.list(prefix))


def test_stored_objects_are_returned_and_listed_by_prefix(store: ObjectStore) -> None:
    store.put("a/v1/two", b"2")
    store.put("a/v1/one", b"1")
    store.put("b/one", b"3")
    assert store.get("a/v1/one") == b"1"
    assert keys(store, "a/") == ["a/v1/one", "a/v1/two"]
    assert keys(store, "a/v1/t") == ["a/v1/two"]


@pytest.mark.parametrize(
    "key", ["topic_id=7/partition=0/1-2.parquet", "a b+c%41&d?e#f", "größe/ü", "~!*'()"]
)
def test_a_key_is_kept_as_given(store: ObjectStore, key: str) -> None:
    store.put(key, b"1")
    assert store.get(key) == b"1"
    assert keys(store) == [key]


def test_a_second_put_replaces_the_whole_object(store: ObjectStore) -> None:
    store.put("key", b"long content")
    store.put("key", b"short")
    store.put("empty", b"")
    assert (store.get("key"), store.get("empty")) == (b"short", b"")


def test_deletion_is_idempotent(store: ObjectStore) -> None:
    store.put("a/one", b"1")
    store.put("a/two", b"2")
    for _ in range(2):
        store.delete("a/one")
    with pytest.raises(ObjectMissingError):
        store.get("a/one")
    assert keys(store) == ["a/two"]
