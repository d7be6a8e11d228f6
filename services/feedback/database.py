"""The feedback database: SQLite where one process has it, Postgres where many do. Its schema is
moved by Alembic alone.

Alembic is imported only when there is something to move: the revision is read first, so a usual
start does not pay for it.
"""

import os
import socket
import ssl
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, make_url, text

from services.chassis.errors import DetailedError

# The newest of migrations/versions; a test compares.
HEAD = "0007"
# The database may hold other services' tables too, each with a revision of its own.
REVISION_TABLE = "feedback_revision"

# A statement that waits longer is an outage, and a caller is waiting. The socket's limit lies
# above: where the server can still answer, it says why.
POSTGRES_SECONDS = {
    "statement_timeout": 8,
    "lock_timeout": 7,
    # A writer that is frozen inside a commit holds the stream's row: it loses it before those who
    # wait give up.
    "idle_in_transaction_session_timeout": 5,
}
SOCKET_SECONDS = 12
CONNECTIONS = 8


class SchemaBehindError(DetailedError):
    """The database has not the schema of this code; the text names the command, `limit` is the
    revision that is needed.
    """

    reason = "MISMATCH"


def connect(url: str) -> Engine:
    """An engine whose commits survive power loss. `?ssl=verify-full` compares Postgres'
    certificate, as in asyncpg's URLs.
    """
    if url.startswith("sqlite"):
        return _sqlite(url)
    milliseconds = {name: str(seconds * 1_000) for name, seconds in POSTGRES_SECONDS.items()}
    arguments = {
        "timeout": SOCKET_SECONDS,
        "startup_params": milliseconds,
        "application_name": "thumbwheel-feedback",
    }
    made = make_url(url)
    if "ssl" in made.query:
        # Without it pg8000 encrypts too where the server can, and believes anybody.
        arguments["ssl_context"] = ssl.create_default_context(
            cafile=os.environ.get("PGSSLROOTCERT")
        )
    engine = create_engine(
        made.difference_update_query(["ssl"]),
        pool_pre_ping=True,
        pool_size=CONNECTIONS,
        connect_args=arguments,
    )
    # Otherwise each row of an insert is a round trip of its own: 5,000 for a full segment.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    event.listen(engine, "connect", _send_at_once)
    return engine


def open_database(url: str) -> Engine:
    """An engine over the schema of this code: SQLite belongs to this process and is moved there,
    Postgres must be there.

    Raises:
        SchemaBehindError: Postgres has another revision.
        SQLAlchemyError: the database does not answer.
    """
    engine = connect(url)
    found = revision(engine)
    if found == HEAD:
        return engine
    if engine.dialect.name == "sqlite":
        migrate(engine)
        return engine
    engine.dispose()
    raise SchemaBehindError(
        f"the feedback database is at revision {found or 'none'}, this version needs {HEAD}: "
        "run `python -m services.feedback migrate`",
        field="database_url",
        limit=HEAD,
    )


def revision(engine: Engine) -> str | None:
    """Where the schema stands; None: Alembic was never here."""
    if not inspect(engine).has_table(REVISION_TABLE):
        return None
    with engine.begin() as connection:
        query = text(f"SELECT version_num FROM {REVISION_TABLE}")  # noqa: S608
        found: str | None = connection.execute(query).scalar()
    return found


def migrate(engine: Engine) -> None:
    """Move the schema to HEAD, all of it or nothing."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            # One at a time, and as long as it takes.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(
                text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": REVISION_TABLE}
            )
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def scrub(engine: Engine) -> bool:
    """Take what was deleted out of SQLite's write-ahead log too; False: somebody still reads it.
    Nothing to do elsewhere.
    """
    if engine.dialect.name != "sqlite":
        return True
    connection = engine.raw_connection()
    try:
        (busy, _, _) = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.close()
    return not busy


def _send_at_once(connection: Any, _record: Any) -> None:
    """pg8000 leaves Nagle's algorithm on: a statement of more than one buffer waits 40 ms for the
    server's delayed ACK.
    """
    connection._usock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _sqlite(url: str) -> Engine:
    engine = create_engine(url)
    if engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver would open transactions by its own rules, and reads outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # The spool is trimmed after a commit, so the commit must have reached the disk.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    # A deleted key is overwritten with zeros.
    cursor.execute("PRAGMA secure_delete=ON")
    cursor.close()
