"""Feedback database: SQLite for a single process, Postgres for several replicas.

Only the migrations change the schema.
"""

import os
import socket
import ssl
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, func, make_url, text
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.chassis.database.engine import prepare_sqlite, truncate_log
from services.chassis.database.schema import Schema
from services.chassis.database.url import create_private_file
from services.chassis.errors import DetailedError, SchemaRevisionError, UnavailableError

SCHEMA = Schema(
    Path(__file__).parent / "migrations",
    revision_table="feedback_revision",
    lock=func.hashtext("feedback_revision"),
    outdated_text="the feedback database has revision {found}, this version needs {head}; "
    "run `python -m services.feedback migrate`",
)

# A longer statement counts as an outage, because a caller is waiting. The limit of the socket is
# higher, so that a responsive server can still report the reason.
POSTGRES_SECONDS = {
    "statement_timeout": 8,
    "lock_timeout": 7,
    # A writer frozen inside a commit holds the lock on the stream's row. The server ends its
    # transaction before the waiting writers time out.
    "idle_in_transaction_session_timeout": 5,
}
SOCKET_SECONDS = 12
CONNECTIONS = 8
# Of SQLite. The spool is trimmed after a commit, which must be durable by then. Deleted keys are
# overwritten with zeros.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "secure_delete=ON")
KEYS_PER_QUERY = 500
_POSTGRES_CLOCK = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
KeyT = TypeVar("KeyT", str, bytes, tuple[str, str], tuple[str, str, str])


class FencedError(DetailedError):
    """Another writer owns the partition or has moved its end.

    The caller discards buffered records and acquires a new lease.
    """

    reason = "FENCED"


class LedgerUnavailableError(UnavailableError):
    """Database has rejected the operation, or the outcome is unknown."""

    reason = "FEEDBACK_LEDGER_UNAVAILABLE"


def connect(url: str) -> Engine:
    """Open an engine whose commits survive power loss.

    `?ssl=` is `require`, `verify-ca` or `verify-full`, as in URLs of asyncpg.
    """
    if url.startswith("sqlite"):
        create_private_file(url)
        engine = create_engine(url)
        prepare_sqlite(engine, "BEGIN", PRAGMAS)
        return engine
    milliseconds = {name: str(seconds * 1_000) for name, seconds in POSTGRES_SECONDS.items()}
    arguments = {
        "timeout": SOCKET_SECONDS,
        "startup_params": milliseconds,
        "application_name": "thumbwheel-feedback",
    }
    parsed = make_url(url)
    if mode := parsed.query.get("ssl"):
        # Without this context pg8000 encrypts opportunistically and accepts any certificate.
        context = ssl.create_default_context(cafile=os.environ.get("PGSSLROOTCERT"))
        context.check_hostname = mode == "verify-full"
        if mode == "require":
            context.verify_mode = ssl.CERT_NONE
        arguments["ssl_context"] = context
    engine = create_engine(
        parsed.difference_update_query(["ssl"]),
        pool_pre_ping=True,
        pool_size=CONNECTIONS,
        connect_args=arguments,
    )
    # Without this setting each inserted row is a separate round trip: 5,000 for a full segment.
    engine.dialect.use_insertmanyvalues_wo_returning = True
    event.listen(engine, "connect", _disable_nagle)
    return engine


def open_database(url: str) -> Engine:
    """Open an engine on the schema of this code, or of a later version.

    SQLite belongs to this process and is migrated; Postgres must already have the schema.

    Raises:
        SchemaRevisionError: Postgres has an earlier revision.
        SQLAlchemyError: The database does not answer.
    """
    engine = connect(url)
    try:
        with engine.begin() as connection:
            if SCHEMA.needs_upgrade(connection):
                SCHEMA.upgrade(connection)
    except SchemaRevisionError:
        engine.dispose()
        raise
    return engine


@contextmanager
def opened_database(url: str) -> Iterator[Engine]:
    """Open an engine like `open_database`, and close its connections at the end."""
    engine = open_database(url)
    try:
        yield engine
    finally:
        engine.dispose()


def migrate(engine: Engine) -> tuple[str, str]:
    """Migrate the schema in one transaction. Returns the revisions before and after ("" if empty).

    Postgres runs migrations without a time limit.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            for timeout in POSTGRES_SECONDS:
                connection.execute(text(f"SET LOCAL {timeout} = 0"))
        return SCHEMA.upgrade(connection)


def scrub(engine: Engine) -> bool:
    """Truncate SQLite's write-ahead log, which may still contain deleted data.

    Returns False while a reader blocks the truncation. Other databases need no action.
    """
    return engine.dialect.name != "sqlite" or truncate_log(engine)


def _disable_nagle(connection: Any, _record: Any) -> None:
    """Disable Nagle's algorithm, which pg8000 leaves enabled.

    With Nagle a statement larger than one buffer waits 40 ms for the server's delayed ACK.
    """
    connection._usock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a transaction and translate database errors.

    Raises:
        FencedError: A row exists already.
        LedgerUnavailableError: Any other failure in the database.
    """
    try:
        with engine.begin() as connection:
            yield connection
    # A unique key decides between writers if both passed the other checks.
    except IntegrityError as error:
        raise FencedError(
            "another writer has committed the same segment or event", reason="EXISTS"
        ) from error
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(
            "the feedback ledger is unavailable; no event was stored"
        ) from error


def database_clock_us(connection: Connection) -> int:
    """Return the database's time in microseconds since 1970; SQLite uses this machine's clock."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1_000
    return int(connection.execute(_POSTGRES_CLOCK).scalar_one())


def chunks(keys: Collection[KeyT]) -> Iterator[list[KeyT]]:
    """Yield the keys in sorted chunks.

    The common sort order prevents deadlocks: all callers lock rows in the same order.
    """
    ordered = sorted(keys)
    for at in range(0, len(ordered), KEYS_PER_QUERY):
        yield ordered[at : at + KEYS_PER_QUERY]
