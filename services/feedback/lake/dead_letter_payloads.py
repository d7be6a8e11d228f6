"""Removal of the payloads of old dead letters.

Undecodable bytes may contain unencrypted user text. After a while the payload is cleared and only
the entry remains.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from sqlalchemy import Engine, update

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback.store import tables
from services.feedback.store.database import transaction

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3_600.0


def clear_payloads(engine: Engine, before_us: int) -> int:
    """Clear the payloads committed before a time and return their number.

    Raises:
        LedgerUnavailableError: The database does not answer.
    """
    table = tables.dead_letters
    old = (table.c.commit_us < before_us) & (table.c.payload_base64 != "")
    with transaction(engine) as connection:
        return connection.execute(update(table).where(old).values(payload_base64="")).rowcount


async def clear_payloads_hourly(
    engine: Engine,
    older_than_seconds: float,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
) -> None:
    """Clear old payloads now and every hour until cancelled."""
    while True:
        try:
            cleared = await run_to_end(
                clear_payloads, engine, now_us() - int(older_than_seconds * 1_000_000)
            )
        except UnavailableError:
            cleared = 0
        if cleared:
            log.info("payloads of old dead letters cleared", extra=fields(dead_letters=cleared))
        await asyncio.sleep(SWEEP_SECONDS)
