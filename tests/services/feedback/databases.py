"""Databases for tests: SQLite copied from a migrated file (5 ms instead of 50), and Postgres."""

import os
from functools import cache
from pathlib import Path
from sqlite3 import Connection
from typing import cast

import pytest
from sqlalchemy import Engine

from services.feedback.store.database import connect, migrate, open_database


@pytest.fixture(autouse=True)
def without_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip loading the system's certificate authorities, 40 ms per connection of pg8000."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


@cache
def migrated() -> bytes:
    """Return the file content of an empty database with the current schema."""
    engine = connect("sqlite://")
    migrate(engine)
    content = _driver_connection(engine).serialize()
    engine.dispose()
    return content


def put_sqlite(path: Path) -> None:
    """Write an empty database with the current schema to `path`; keep an existing file."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(migrated())


def open_sqlite(path: Path) -> Engine:
    """Open the database at `path`, creating a missing one."""
    put_sqlite(path)
    return open_database(f"sqlite:///{path}")


def memory_sqlite() -> Engine:
    """Open a database in memory, for the calling thread."""
    engine = connect("sqlite://")
    _driver_connection(engine).deserialize(migrated())
    return engine


def _driver_connection(engine: Engine) -> Connection:
    """Return the thread's only connection to a database in memory."""
    borrowed = engine.raw_connection()
    try:
        return cast(Connection, borrowed.driver_connection)
    finally:
        borrowed.close()
