"""The feedback database on either server, on Postgres one for all tests, emptied for each; and a fast folder for simulations."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from services.feedback import tables
from services.feedback.database import connect, migrate, open_database
from tests.servers import PostgresServer


@pytest.fixture
def fast_directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a folder: for simulations, whose own disk decides what is durable."""
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
        connection.execute(text(f"TRUNCATE {', '.join(tables.metadata.tables)}"))
    engine.dispose()
    return migrated_url


@pytest.fixture
def postgres_engine(postgres_url: str) -> Iterator[Engine]:
    engine = open_database(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/made/ledger.db")
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> Iterator[Engine]:
    """The same on both."""
    engine = open_database(f"sqlite:///{tmp_path}/made/ledger.db" if request.param == "sqlite" else postgres_url)
    yield engine
    engine.dispose()
