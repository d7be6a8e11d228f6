"""Postgres keeps committed rows, and a paused server does not respond at all."""

import pg8000.dbapi
import pytest

from tests.servers import Database, PostgresServer


def connect(database: Database, timeout_seconds: float | None = None) -> pg8000.dbapi.Connection:
    connection = pg8000.dbapi.connect(
        database.user,
        host=database.host,
        port=database.port,
        password=database.password,
        database=database.name,
        timeout=timeout_seconds,
    )
    connection.autocommit = True
    return connection


def query(database: Database, text: str) -> list[tuple[object, ...]]:
    connection = connect(database)
    try:
        cursor = connection.cursor()
        cursor.execute(text)
        return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
    finally:
        connection.close()


def test_committed_rows_survive_a_kill(postgres: PostgresServer) -> None:
    database = postgres.database()
    query(database, "CREATE TABLE thumbs (id integer)")
    query(database, "INSERT INTO thumbs SELECT generate_series(1, 100)")
    postgres.kill()
    postgres.start()
    assert query(database, "SELECT count(*) FROM thumbs") == [(100,)]


def test_every_commit_is_synced(postgres: PostgresServer) -> None:
    database = postgres.database()
    names = ("fsync", "full_page_writes", "synchronous_commit")
    assert [query(database, f"SHOW {name}") for name in names] == [[("on",)]] * 3


def test_pause_affects_open_connections(postgres: PostgresServer) -> None:
    connection = connect(postgres.database(), timeout_seconds=1)
    postgres.pause()
    try:
        with pytest.raises(TimeoutError):
            connection.cursor().execute("SELECT 1")
    finally:
        postgres.resume()
        connection.close()
    assert query(postgres.database(), "SELECT 1") == [(1,)]
