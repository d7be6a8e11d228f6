"""Publishes local turns to the shared turn log, without delay for their own readers.

Events that occur while a batch is in transit go into the next batch. The turn itself is the buffer.
After an outage, flush or rollback of Valkey, missing events are sent again from there.
"""

import asyncio
import time
from dataclasses import dataclass

from services.chassis.errors import UnavailableError
from services.gateway.metrics import SHARED_EVENTS
from services.gateway.shared import StoreUnavailableError
from services.gateway.shared.turn_log import End, TurnLog
from services.gateway.turns.turn import Turn

# An answer has at most 4,096 tokens, so a normal turn stays below both limits.
MAX_EVENTS = 10_000
MAX_CHARACTERS = 1_000_000
BATCH_EVENTS = 500


@dataclass
class _Progress:
    """Publishing progress of a turn. `closed` means the end has been written."""

    turn: Turn
    sent: int = 0
    closed: bool = False
    ended_at: float | None = None


class Publisher:
    """Local turns by attempt, until their ends are in the log."""

    def __init__(self, log: TurnLog, linger_seconds: float, keep_seconds: float) -> None:
        self._log, self._linger_seconds, self._keep_seconds = log, linger_seconds, keep_seconds
        self._turns: dict[str, _Progress] = {}
        # A dict as an ordered set.
        self._pending: dict[str, None] = {}
        self._wakeup = asyncio.Event()

    @property
    def busy(self) -> bool:
        """True while a local turn is running or its end has not been written."""
        return bool(self._turns)

    def announce(self, turn: Turn) -> None:
        """Mark a turn for publishing.

        A turn that ended before any event matters only to calls with the same request_id.
        """
        progress = self._turns.get(turn.attempt)
        if progress is None:
            if turn.ended and not (turn.started or turn.request.request_id):
                return
            progress = self._turns[turn.attempt] = _Progress(turn)
        if turn.ended and progress.ended_at is None:
            progress.ended_at = time.monotonic()
        self._mark(turn.attempt)

    def stop(self, message_id: str) -> bool:
        """Cancel a local turn at the request of another gateway."""
        found = [
            progress.turn
            for progress in self._turns.values()
            if progress.turn.message_id == message_id
        ]
        cancelled = [turn.cancel() for turn in found]
        return any(cancelled)

    def forget(self, caller_key: str) -> None:
        """Stop publishing the ended turns of a user."""
        for attempt in [
            of for of, progress in self._turns.items() if progress.turn.caller.key == caller_key
        ]:
            del self._turns[attempt]

    def recheck_all(self) -> None:
        """Compare all turns with the log, which may have lost turns or assigned them elsewhere."""
        oldest = time.monotonic() - self._keep_seconds
        for attempt, progress in list(self._turns.items()):
            if progress.ended_at and progress.ended_at < oldest:
                del self._turns[attempt]
            else:
                self._mark(attempt)

    async def serve(self) -> None:
        """Publish pending events until cancelled."""
        while True:
            await self._wakeup.wait()
            # Linger, to send the events of many turns in one batch.
            await asyncio.sleep(self._linger_seconds)
            await self._log.wait_until_connected()
            # Cleared before the pending set is taken, or a later mark could be lost.
            self._wakeup.clear()
            pending, self._pending = list(self._pending), {}
            await asyncio.gather(*map(self._send_turn, pending))

    async def drain(self, seconds: float) -> None:
        """Wait for the ends of turns to be written, up to a time limit."""
        until = time.monotonic() + seconds
        while self.busy and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(self._linger_seconds)

    def _mark(self, attempt: str) -> None:
        self._pending[attempt] = None
        self._wakeup.set()

    async def _send_turn(self, attempt: str) -> None:
        progress = self._turns.get(attempt)
        if progress is None:
            return
        turn, first = progress.turn, progress.sent
        events = [] if progress.closed else turn.events[first : first + BATCH_EVENTS]
        end = None if progress.closed else _end(turn, first + len(events))
        try:
            last = await self._log.append(turn, events, first + 1, end)
        except StoreUnavailableError:
            self._mark(attempt)
            return
        # Another gateway has claimed the turn, for example while this process was suspended.
        if last is None:
            self._turns.pop(turn.attempt, None)
            turn.supersede()
            return
        SHARED_EVENTS.inc(max(0, last - progress.sent))
        progress.closed = progress.closed or (
            end is not None and last == progress.sent + len(events)
        )
        # `last` may be lower than before, after a loss in Valkey. The missing events follow again.
        progress.sent = last
        if progress.closed and turn.ended:
            self._turns.pop(turn.attempt, None)
        elif not progress.closed and (last < len(turn.events) or turn.ended):
            self._mark(turn.attempt)


def _end(turn: Turn, sent: int) -> End | None:
    """Return the end after `sent` events, or None if more events follow."""
    if sent > MAX_EVENTS or len(turn.text) > MAX_CHARACTERS:
        return End(
            UnavailableError(
                "the answer is too long for other gateways", reason="TURN_TOO_LONG_TO_SHARE"
            )
        )
    return End(turn.error) if turn.ended and sent == len(turn.events) else None
