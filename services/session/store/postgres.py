"""Sessions database in Postgres, for any number of replicas.

Reads are REPEATABLE READ (one snapshot), writes are READ COMMITTED: a change of a conversation
locks its row first, and later statements see the changes of the previous lock holder. Connections
are not tested before use, because a test costs three round trips. The first broken connection
empties the pool, and its work runs again.

Errors are classified by SQLSTATE: retry or not, and the error for the caller. A code without an
entry in the table is a defect of this service; its error is passed on unchanged.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from prometheus_client import Counter
from sqlalchemy import ExceptionContext, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.session.store.database import DatabaseLimits, ResultT, Work


@dataclass(frozen=True)
class Fault:
    """One class of database errors; `retryable` means that another attempt may succeed."""

    error_class: type[ServiceError]
    reason: str
    text: str
    retry_seconds: float
    retryable: bool

    def error(self) -> ServiceError:
        """Create the error for the caller."""
        return self.error_class(self.text, reason=self.reason, retry_seconds=self.retry_seconds)


CONFLICT = Fault(
    UnavailableError,
    "SESSION_DATABASE_BUSY",
    "too many concurrent changes of one conversation",
    0.2,
    True,
)
TIMED_OUT = Fault(
    UnavailableError, "SESSION_DATABASE_BUSY", "the sessions database took too long", 1.0, False
)
NO_CONNECTION = Fault(
    ResourceExhaustedError,
    "SESSION_DATABASE_CROWDED",
    "no connection to the database is free",
    1.0,
    False,
)
UNAVAILABLE = Fault(
    UnavailableError, "SESSION_DATABASE_AWAY", "the sessions database is unavailable", 1.0, True
)
FULL = Fault(
    UnavailableError,
    "SESSION_DATABASE_AWAY",
    "the sessions database is out of space or memory",
    5.0,
    False,
)
READ_ONLY = Fault(
    UnavailableError, "SESSION_DATABASE_READ_ONLY", "the sessions database is read-only", 5.0, False
)

# By code or, for codes without an entry, by class (the first two characters). Source: PostgreSQL
# manual, appendix A.
FAULTS = {
    "40001": CONFLICT,  # serialization_failure
    "40P01": CONFLICT,  # deadlock_detected
    # unique_violation: another replica was first; the next attempt sees the stored row
    "23505": CONFLICT,
    # feature_not_supported: a prepared plan from before a migration; the driver drops the plan
    "0A000": CONFLICT,
    "55P03": TIMED_OUT,  # lock_not_available: lock_timeout
    "57014": TIMED_OUT,  # query_canceled: statement_timeout
    "25006": READ_ONLY,  # read_only_sql_transaction
    "25P03": UNAVAILABLE,  # idle_in_transaction_session_timeout: this process was suspended
    "57P01": UNAVAILABLE,  # admin_shutdown
    "57P02": UNAVAILABLE,  # crash_shutdown
    "57P03": UNAVAILABLE,  # cannot_connect_now: starting up or shutting down
    "53300": NO_CONNECTION,  # too_many_connections
    "53": FULL,
    "08": UNAVAILABLE,  # connection_exception
}
# Errors of SQLAlchemy, and of the driver alone while a connection is opened.
DRIVER_ERRORS = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)
# Codes after which the connection is closed, because a new connection may reach another server.
DISCONNECT_CODES = {"25006", "57P01", "57P02", "57P03"}


def fault_of(error: Exception) -> Fault | None:
    """Classify an error; None if the database did not cause the error."""
    if isinstance(error, NoConnectionError):
        return NO_CONNECTION
    if isinstance(error, OSError | TimeoutError):
        return UNAVAILABLE
    code = sqlstate_of(error)
    if fault := FAULTS.get(code) or FAULTS.get(code[:2]):
        return fault
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return UNAVAILABLE if lost or isinstance(error, asyncpg.InterfaceError) else None


def sqlstate_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error, or ""; SQLAlchemy's error has the driver's as its cause."""
    while error is not None:
        if code := getattr(error, "sqlstate", None):
            return str(code)
        error = getattr(error, "orig", None) or error.__cause__
    return ""


log = logging.getLogger(__name__)

ATTEMPTS = 4
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.2, 0.8

RETRIED = Counter(
    "thumbwheel_session_work_run_again_total", "Retries of database transactions.", ["reason"]
)
FAILED = Counter(
    "thumbwheel_session_work_failed_total", "Failed database transactions.", ["reason"]
)


class PostgresDatabase:
    """Implementation of `database.Database` with a Postgres server."""

    def __init__(self, engine: AsyncEngine, work_seconds: float) -> None:
        self._writer = engine
        self._reader = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._work_seconds = work_seconds
        self._running: set[asyncio.Task[object]] = set()

    async def read(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.read` with a read-only connection."""
        return await self._run(self._reader, work)

    async def write(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.write` with the connection for writes."""
        return await self._run(self._writer, work)

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """Implement `Database.erase`; Postgres syncs every commit."""
        return await self._run(self._writer, work)

    async def close(self) -> None:
        """Wait for running transactions, then disconnect."""
        await asyncio.gather(*self._running, return_exceptions=True)
        # A suspended server does not answer the close of a connection.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._writer.dispose(), self._work_seconds)

    async def _run(self, engine: AsyncEngine, work: Work[ResultT]) -> ResultT:
        """Run work in its own task, so that a cancelled caller does not break the connection.

        The timeout is for a suspended server, whose own timeouts do not act. The task is then
        cancelled and closes its connection; the caller does not wait for the close.
        """
        task = asyncio.create_task(_run_with_retries(engine, work))
        limit = asyncio.get_running_loop().call_later(self._work_seconds, task.cancel)
        task.add_done_callback(lambda _: limit.cancel())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Unlike wait_for, wait returns at the timeout without waiting for the cancelled task.
        done, _ = await asyncio.wait({task}, timeout=self._work_seconds)
        if not done or task.cancelled():
            raise _failed(TIMED_OUT)
        return task.result()


@asynccontextmanager
async def open_postgres(url: str, limits: DatabaseLimits) -> AsyncIterator[PostgresDatabase]:
    """Open a connection pool; connections are opened on demand and closed at the end."""
    settings = {
        "application_name": "thumbwheel-session",
        "statement_timeout": _milliseconds(limits.statement_seconds),
        "lock_timeout": _milliseconds(limits.lock_seconds),
        # A suspended replica must not block a conversation for the other replicas.
        "idle_in_transaction_session_timeout": _milliseconds(limits.work_seconds),
    }
    engine = create_async_engine(
        url,
        isolation_level="READ COMMITTED",
        hide_parameters=True,
        pool_size=limits.connections,
        max_overflow=0,
        pool_timeout=limits.pool_seconds,
        connect_args={"timeout": limits.pool_seconds, "server_settings": settings},
    )

    @event.listens_for(engine.sync_engine, "handle_error")
    def disconnect(context: ExceptionContext) -> None:
        if sqlstate_of(context.original_exception) in DISCONNECT_CODES:
            context.is_disconnect = True

    database = PostgresDatabase(engine, limits.work_seconds)
    try:
        yield database
    finally:
        await database.close()


async def _run_with_retries(engine: AsyncEngine, work: Work[ResultT]) -> ResultT:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        except DRIVER_ERRORS as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if attempt == ATTEMPTS or not fault.retryable:
                raise _failed(fault) from error
            RETRIED.labels(fault.reason).inc()
        await asyncio.sleep(retry_delay(attempt, FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS))
    raise AssertionError("the loop returns or raises")


def _failed(fault: Fault) -> Exception:
    FAILED.labels(fault.reason).inc()
    log.warning("database transaction failed", extra=fields(reason=fault.reason))
    return fault.error()


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
