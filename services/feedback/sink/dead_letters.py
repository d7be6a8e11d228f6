"""Dead letters age: what nobody could decode may hold what somebody wrote, under no key, so after a
while only the account stays.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from sqlalchemy import Engine, update

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.feedback import tables
from services.feedback.lake.ledger import transaction

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3_600.0


def clear_payloads(engine: Engine, before_us: int) -> int:
    """Empty the payloads of those that were committed before a time; how many. Raises:
    LedgerUnavailableError.
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
    """For ever, beginning now."""
    while True:
        try:
            cleared = await asyncio.to_thread(
                clear_payloads, engine, now_us() - int(older_than_seconds * 1_000_000)
            )
        except UnavailableError:
            cleared = 0
        if cleared:
            log.info("dead letters were emptied", extra=fields(dead_letters=cleared))
        await asyncio.sleep(SWEEP_SECONDS)
