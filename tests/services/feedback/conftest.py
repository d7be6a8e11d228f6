"""Feedback databases on SQLite and Postgres, and a fast folder for simulations.

All tests share one Postgres database, emptied before each test.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback.store import tables
from services.feedback.store.database import connect, migrate, open_database
from tests.servers import PostgresServer
from tests.services.feedback.databases import open_sqlite, without_authorities

__all__ = ["without_authorities"]


@pytest.fixture
def fast_directory(tmp_path: Path) -> Iterator[Path]:
    """Return a folder in memory if available, for simulations with their own model of a disk."""
    shm = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else tmp_path))
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def migrated_url(postgres: PostgresServer) -> str:
    url = postgres.database().url("postgresql+pg8000")
    engine = connect(url)
    migrate(engine)
    engine.dispose()
    return url


@pytest.fixture
def postgres_url(postgres: PostgresServer, migrated_url: str) -> str:
    """Return the URL of an empty database with the current schema."""
    engine = connect(migrated_url)
    with engine.begin() as connection:
        # TRUNCATE would create and sync new files for all tables and indexes. The audit log refuses
        # DELETE.
        for table in {*tables.metadata.tables.values()} - {tables.audit}:
            connection.execute(table.delete())
    engine.dispose()
    return migrated_url


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_database(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_sqlite(tmp_path / "ledger.db")
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Return an engine on SQLite or Postgres."""
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine
