"""Order of syncs and renames of files and folders that replace others."""

import os
from pathlib import Path

import pytest

from durable_files.files import DRAFT_PREFIX, publish, write_file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, list[str]]]:
    """Record the syncs, each with the content of its file or the names in its folder."""
    seen: list[tuple[str, str, list[str]]] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_dir():
            seen.append(("folder", path.name, sorted(entry.name for entry in path.iterdir())))
        else:
            seen.append(("file", path.name, [path.read_text()]))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_a_file_is_synced_before_its_name_exists_and_its_folder_afterwards(
    tmp_path: Path, calls: list[tuple[str, str, list[str]]]
) -> None:
    path = tmp_path / "key"
    path.write_text("old")
    write_file(path, b"new", mode=0o600)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    (kind, name, content), folder = calls
    assert (kind, content) == ("file", ["new"])
    assert name.startswith(DRAFT_PREFIX)
    assert folder == ("folder", tmp_path.name, ["key"])


def test_all_files_and_folders_of_a_draft_are_synced_before_its_name_exists(
    tmp_path: Path, calls: list[tuple[str, str, list[str]]]
) -> None:
    draft, target = tmp_path / "draft", tmp_path / "v1"
    (draft / "adapter").mkdir(parents=True)
    (draft / "weights").write_text("w")
    (draft / "adapter" / "weights").write_text("a")
    (draft / "link").symlink_to("/dev/null")
    target.mkdir()
    (target / "remainder").write_text("r")
    publish(draft, target)
    assert calls == [
        ("file", "weights", ["a"]),
        ("folder", "adapter", ["weights"]),
        ("file", "weights", ["w"]),
        ("folder", "draft", ["adapter", "link", "weights"]),
        ("folder", tmp_path.name, ["v1"]),
    ]
    assert sorted(path.name for path in target.iterdir()) == ["adapter", "link", "weights"]


def test_a_failed_write_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="5"):
        write_file(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
