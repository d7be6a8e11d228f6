"""The sessions database in Postgres, for any number of replicas. All that is particular to it is
here.

Reading is REPEATABLE READ (one snapshot), writing READ COMMITTED: whoever changes a conversation
locks its row first, and every later statement sees what the lock's last holder stored. Connections
are not tested before use, which would cost three round
trips: the first one that is found broken empties the pool, and its work runs again.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Counter
from sqlalchemy import ExceptionContext, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from services.chassis.telemetry import fields
from services.session.database import DatabaseLimits, ResultT, Work
from services.session.database_faults import FOREIGN, HELD, LEAVE, Fault, fault_of, sqlstate_of

log = logging.getLogger(__name__)

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.05

RUN_AGAIN = Counter(
    "thumbwheel_session_work_run_again_total", "Transactions that were run again.", ["reason"]
)
FAILED = Counter(
    "thumbwheel_session_work_failed_total", "Transactions that the database did not do.", ["reason"]
)


class PostgresDatabase:
    """See `database.Database`."""

    def __init__(self, engine: AsyncEngine, work_seconds: float) -> None:
        self._writer = engine
        self._reader = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        self._work_seconds = work_seconds
        self._running: set[asyncio.Task[object]] = set()

    async def read(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`."""
        return await self._run(self._reader, work)

    async def write(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`."""
        return await self._run(self._writer, work)

    async def erase(self, work: Work[ResultT]) -> ResultT:
        """See `database.Database`: Postgres syncs every commit."""
        return await self._run(self._writer, work)

    async def close(self) -> None:
        """Let running work end, then disconnect."""
        await asyncio.gather(*self._running, return_exceptions=True)
        # A server that stands still answers no farewell.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._writer.dispose(), self._work_seconds)

    async def _run(self, engine: AsyncEngine, work: Work[ResultT]) -> ResultT:
        """In a task of its own, so that a caller who goes away breaks no connection.

        The limit is for a server that stands still, whose own timeouts do not fire: the task ends
        then, after a farewell to the server, and the caller does not wait for that.
        """
        task = asyncio.create_task(_until_done(engine, work))
        limit = asyncio.get_running_loop().call_later(self._work_seconds, task.cancel)
        task.add_done_callback(lambda _: limit.cancel())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        done, _ = await asyncio.wait({task}, timeout=self._work_seconds)
        if not done or task.cancelled():
            raise _failed(HELD)
        return task.result()


@asynccontextmanager
async def open_postgres(url: str, limits: DatabaseLimits) -> AsyncIterator[PostgresDatabase]:
    """A pool of connections, made as they are needed; closed at the end."""
    settings = {
        "application_name": "thumbwheel-session",
        "statement_timeout": _milliseconds(limits.statement_seconds),
        "lock_timeout": _milliseconds(limits.lock_seconds),
        # A replica that stands still must not keep the others from a conversation.
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
    def leave(context: ExceptionContext) -> None:
        if sqlstate_of(context.original_exception) in LEAVE:
            context.is_disconnect = True

    database = PostgresDatabase(engine, limits.work_seconds)
    try:
        yield database
    finally:
        await database.close()


async def _until_done(engine: AsyncEngine, work: Work[ResultT]) -> ResultT:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(work)
        except FOREIGN as error:
            fault = fault_of(error)
            if fault is None:
                raise
            if attempt == ATTEMPTS or not fault.again:
                raise _failed(fault) from error
            RUN_AGAIN.labels(fault.reason).inc()
        await asyncio.sleep(random.uniform(0.5, 1) * FIRST_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the loop returns or raises")


def _failed(fault: Fault) -> Exception:
    FAILED.labels(fault.reason).inc()
    log.warning("the database did not do it", extra=fields(reason=fault.reason))
    return fault.error()


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
