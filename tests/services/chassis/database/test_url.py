"""URLs of databases: hidden passwords, and files of SQLite that only their owner reads."""

import os
from pathlib import Path

import pytest

from services.chassis.database.url import create_private_file, redacted_url, sqlite_file


def test_password_is_not_shown() -> None:
    assert "secret" not in redacted_url("postgresql+asyncpg://tw:secret@127.0.0.1/tw")


def test_missing_file_and_its_folder_are_created_for_the_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "state" / "a.db"
    create_private_file(f"sqlite+aiosqlite:///{file}")
    assert [path.stat().st_mode & 0o777 for path in (file.parent, file)] == [0o700, 0o600]


def test_existing_file_is_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    file.write_bytes(b"content")
    file.chmod(0o640)
    os.utime(file, (0, 0))
    create_private_file(f"sqlite:///{file}")
    assert (file.read_bytes(), file.stat().st_mode & 0o777) == (b"content", 0o640)
    assert file.stat().st_mtime == 0


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "postgresql+asyncpg://tw@127.0.0.1/tw"]
)
def test_databases_without_a_file_create_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    create_private_file(url)
    assert sqlite_file(url) is None
    assert list(tmp_path.iterdir()) == []
