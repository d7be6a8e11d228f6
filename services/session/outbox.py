"""Relays the records of turns to the feedback service, in order and at least once: a row goes only after the acknowledgement.

The feedback service knows an event by its id, so a batch that was sent twice counts once.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter, Gauge
from sqlalchemy.exc import SQLAlchemyError

from services.chassis.errors import InvalidArgumentError, ServiceError
from services.chassis.telemetry import fields
from services.session.database import Database
from services.session.message import OutboxRow
from services.session.statements import COUNT_RECORDS, REFUSE_RECORD, REMOVE_RELAYED, WAITING_RECORDS

log = logging.getLogger(__name__)

# AppendTurns takes 500 turns and 2 MiB; some bytes a turn are kept for the framing.
MAX_BATCH_TURNS = 500
MAX_BATCH_BYTES = 2 * 1024 * 1024
FRAMING_BYTES = 8
FIRST_BACKOFF_SECONDS = 0.25

RELAYED = Counter("thumbwheel_session_turns_relayed_total", "Records that the feedback service acknowledged.")
REFUSED = Counter("thumbwheel_session_turns_refused_total", "Records that the feedback service will never take.")
WAITING = Gauge("thumbwheel_session_outbox_turns", "Records that wait for the feedback service.")


class TurnLog(Protocol):
    """Where records go. Raises ServiceError; InvalidArgumentError means never."""

    async def append(self, payloads: Sequence[bytes]) -> None: ...


class Outbox:
    """The rows that wait."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def batch(self) -> list[OutboxRow]:
        """The oldest rows that one call may carry."""
        found = await self._database.read(
            lambda connection: connection.execute(WAITING_RECORDS, {"size": MAX_BATCH_TURNS}).all()
        )
        return _fitting([OutboxRow(row.id, row.payload) for row in found])

    async def waiting(self) -> int:
        """How many rows wait."""
        return await self._database.read(lambda connection: connection.execute(COUNT_RECORDS).scalar_one())

    async def remove(self, rows: Sequence[OutboxRow]) -> None:
        """They were acknowledged."""
        ids = [row.id for row in rows]
        await self._database.write(lambda connection: connection.execute(REMOVE_RELAYED, {"ids": ids}))

    async def refuse(self, row: OutboxRow) -> None:
        """Keep it aside, so that it holds nothing up and a person can look at it."""
        await self._database.write(lambda connection: connection.execute(REFUSE_RECORD, {"row_id": row.id}))


@dataclass(frozen=True)
class RelayPace:
    """How often the outbox is looked at unasked, how long a batch may collect, and the longest wait after a failure."""

    poll_seconds: float
    linger_seconds: float
    max_backoff_seconds: float


class Relay:
    """Moves rows from the outbox to the log, for ever."""

    def __init__(self, waiting: Outbox, turn_log: TurnLog, pace: RelayPace) -> None:
        self._outbox = waiting
        self._log = turn_log
        self._pace = pace
        self._something = asyncio.Event()

    def wake(self) -> None:
        """The outbox has something new."""
        self._something.set()

    async def run(self) -> None:
        """Relay until cancelled; back off while the feedback service is away."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            self._something.clear()
            try:
                while await self.relay_batch():
                    backoff = FIRST_BACKOFF_SECONDS
                WAITING.set(0)
            except (ServiceError, SQLAlchemyError) as error:
                log.warning("turns wait in the outbox", extra=fields(error=type(error).__name__, seconds=backoff))
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, self._pace.max_backoff_seconds)
                continue
            await self._wait()

    async def relay_batch(self) -> bool:
        """Relay what one call may carry; False if nothing waited. Raises: ServiceError, and then every row is still there."""
        rows = await self._outbox.batch()
        if not rows:
            return False
        WAITING.set(await self._outbox.waiting())
        try:
            await self._log.append([row.payload for row in rows])
        except InvalidArgumentError:
            await self._relay_singly(rows)
            return True
        await self._outbox.remove(rows)
        RELAYED.inc(len(rows))
        return True

    async def _relay_singly(self, rows: Sequence[OutboxRow]) -> None:
        """One row is wrong and would hold up all others for ever: find it and set it aside."""
        for row in rows:
            try:
                await self._log.append([row.payload])
            except InvalidArgumentError as error:
                await self._outbox.refuse(row)
                REFUSED.inc()
                log.error("a turn was refused by the feedback service", extra=fields(row=row.id, field=error.field))
            else:
                await self._outbox.remove([row])
                RELAYED.inc()

    async def _wait(self) -> None:
        """Until there is something, and then a little longer: a turn that ends now costs the next turn's first token."""
        try:
            async with asyncio.timeout(self._pace.poll_seconds):
                await self._something.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._pace.linger_seconds)


def _fitting(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    """As many as fit into one call; always at least one, so that a giant is refused by name and not retried for ever."""
    chosen: list[OutboxRow] = []
    total = 0
    for row in rows:
        total += len(row.payload) + FRAMING_BYTES
        if chosen and total > MAX_BATCH_BYTES:
            break
        chosen.append(row)
    return chosen
