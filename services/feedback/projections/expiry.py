"""Expiry of rows with texts or signals of users, with the rows of the objects (`keep_days`)."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from sqlalchemy import Engine, delete

from services.chassis.errors import UnavailableError
from services.chassis.threads import run_to_end
from services.feedback.store import tables
from services.feedback.store.database import transaction

SWEEP_SECONDS = 3_600.0
# Tables whose rows expire, by the column with their time.
EXPIRING = (
    (tables.remarks, tables.remarks.c.accept_us),
    (tables.answers, tables.answers.c.finish_us),
    (tables.signals, tables.signals.c.accept_us),
)


async def expire_hourly(
    engine: Engine,
    older_than_seconds: float,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
) -> None:
    """Delete expired rows now and every hour until cancelled.

    They must not outlive their rows in the objects, removed by compaction.
    """
    while True:
        before_us = now_us() - int(older_than_seconds * 1_000_000)
        with contextlib.suppress(UnavailableError):
            await run_to_end(expire, engine, before_us)
        await asyncio.sleep(SWEEP_SECONDS)


def expire(engine: Engine, before_us: int) -> None:
    """Delete the rows from before a time.

    Raises:
        LedgerUnavailableError: The database does not answer.
    """
    for table, time_us in EXPIRING:
        with transaction(engine) as connection:
            connection.execute(delete(table).where(time_us < before_us))
