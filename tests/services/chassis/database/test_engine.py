"""Connections of SQLite: their pragmas, their transactions, and the truncation of the log."""

from pathlib import Path

from sqlalchemy import create_engine, text

from services.chassis.database.engine import prepare_sqlite, truncate_log


def test_connections_have_the_pragmas_and_transactions_begin_with_the_statement(
    tmp_path: Path,
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/parrots.db")
    prepare_sqlite(engine, "BEGIN IMMEDIATE", ("journal_mode=WAL", "synchronous=FULL"))
    with engine.begin() as first, engine.connect() as second:
        for connection in (first, second):
            raw = connection.connection.driver_connection
            assert raw is not None
            assert raw.isolation_level is None
            assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert raw.execute("PRAGMA synchronous").fetchone() == (2,)
            assert raw.in_transaction is (connection is first)
    engine.dispose()


def test_log_is_truncated_unless_a_reader_needs_its_pages(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/parrots.db", connect_args={"timeout": 0})
    prepare_sqlite(engine, "BEGIN", ("journal_mode=WAL",))
    with engine.connect() as reader:
        with engine.begin() as writer:
            writer.execute(text("CREATE TABLE parrots (name TEXT)"))
        reader.execute(text("SELECT * FROM parrots"))
        with engine.begin() as writer:
            writer.execute(text("INSERT INTO parrots VALUES ('Coco')"))
        assert not truncate_log(engine)
    assert truncate_log(engine)
    assert (tmp_path / "parrots.db-wal").stat().st_size == 0
    engine.dispose()
