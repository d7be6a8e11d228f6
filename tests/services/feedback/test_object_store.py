"""The directory store: whole or not there, under keys that stay inside."""

from pathlib import Path

import pytest

from services.feedback.object_store import Directory, ObjectMissingError, ObjectStoreError


def test_what_was_put_is_got_and_listed_by_prefix(tmp_path: Path) -> None:
    store = Directory(tmp_path)
    store.put("a/v1/two", b"2")
    store.put("a/v1/one", b"1")
    store.put("b/one", b"3")
    assert store.get("a/v1/one") == b"1"
    assert list(store.list("a/")) == ["a/v1/one", "a/v1/two"]


def test_a_second_put_replaces_the_whole_object(tmp_path: Path) -> None:
    store = Directory(tmp_path)
    store.put("key", b"long content")
    store.put("key", b"short")
    assert store.get("key") == b"short"


def test_a_missing_object_is_told_from_a_store_that_fails(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../out", "a/../../out", "."])
def test_a_key_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(ObjectStoreError):
        Directory(tmp_path / "root").put(key, b"")
