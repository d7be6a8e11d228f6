"""Relays the records of turns to the feedback service, in order and at least once: a row goes only
after the acknowledgement.

The feedback service knows an event by its id, so a batch that was sent twice counts once. Of
several replicas one relays.
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
from services.session.message import OutboxRow
from services.session.outbox import Outbox

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25

RELAYED = Counter(
    "thumbwheel_session_turns_relayed_total", "Records that the feedback service acknowledged."
)
REFUSED = Counter(
    "thumbwheel_session_turns_refused_total", "Records that the feedback service will never take."
)
WAITING = Gauge("thumbwheel_session_outbox_turns", "Records that wait for the feedback service.")


class TurnLog(Protocol):
    """Where records go. Raises ServiceError; InvalidArgumentError means never."""

    async def append(self, payloads: Sequence[bytes]) -> None: ...


@dataclass(frozen=True)
class RelayPace:
    """How often the outbox is looked at unasked, how long a batch may collect, the longest wait
    after a failure; a sign of life.
    """

    poll_seconds: float
    linger_seconds: float
    max_backoff_seconds: float
    keep_seconds: float


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
        """Relay until cancelled; back off while the feedback service or the database is away."""
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            self._something.clear()
            try:
                while await self.relay_batch():
                    pass
            except (ServiceError, SQLAlchemyError) as error:
                log.warning(
                    "turns wait in the outbox",
                    extra=fields(error=type(error).__name__, seconds=backoff),
                )
                await asyncio.sleep(backoff)
                backoff = min(2 * backoff, self._pace.max_backoff_seconds)
                continue
            backoff = FIRST_BACKOFF_SECONDS
            await self._wait()

    async def relay_batch(self) -> bool:
        """Relay what one call may carry; False if nothing waited or another replica relays.

        Raises:
            ServiceError: the log or the database did not do it; every row that was not acknowledged
                is still there.
        """
        batch = await self._outbox.claim()
        WAITING.set(batch.waiting)
        if not batch.rows:
            return False
        try:
            await self._append(batch.rows)
        except InvalidArgumentError:
            await self._relay_singly(batch.rows)
            return True
        await self._outbox.remove(batch.rows, release=batch.is_last)
        RELAYED.inc(len(batch.rows))
        WAITING.dec(len(batch.rows))
        return not batch.is_last

    async def _relay_singly(self, rows: Sequence[OutboxRow]) -> None:
        """One row is wrong and would hold up all others for ever: find it and set it aside."""
        for row in rows:
            try:
                await self._append([row])
            except InvalidArgumentError as error:
                await self._outbox.refuse(row)
                REFUSED.inc()
                log.error(
                    "a turn was refused by the feedback service",
                    extra=fields(row=row.id, field=error.field),
                )
            else:
                await self._outbox.remove([row], release=False)
                RELAYED.inc()

    async def _append(self, rows: Sequence[OutboxRow]) -> None:
        """A call that takes long is no reason for another replica to send the same."""
        sending = asyncio.create_task(self._log.append([row.payload for row in rows]))
        try:
            while not (await asyncio.wait({sending}, timeout=self._pace.keep_seconds))[0]:
                await self._outbox.keep()
        finally:
            sending.cancel()
        await sending

    async def _wait(self) -> None:
        """Until there is something, and then a little longer: a turn that ends now costs the next
        turn's first token.
        """
        try:
            async with asyncio.timeout(self._pace.poll_seconds):
                await self._something.wait()
        except TimeoutError:
            return
        await asyncio.sleep(self._pace.linger_seconds)
