"""The feedback database on either server, on Postgres one for all tests, emptied for each; and a
fast folder for simulations.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback import tables
from services.feedback.database import connect, migrate, open_database
from tests.servers import PostgresServer
from tests.services.feedback.databases import open_sqlite, without_authorities

__all__ = ["without_authorities"]


@pytest.fixture
def fast_directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: for simulations, whose own disk decides what is
    durable.
    """
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
    """An empty database with the schema of this code."""
    engine = connect(migrated_url)
    with engine.begin() as connection:
        # TRUNCATE makes new files of all tables and indexes, and syncs them.
        for table in tables.metadata.tables.values():
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
    """The same on both."""
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    return engine
