"""Brings our turns to the log, without ever making their readers wait: what happens while one batch
travels goes into the next.

The turn itself is the buffer: after Valkey was away, flushed or set back, what it lacks is sent
again from there.
"""

import asyncio
import time
from dataclasses import dataclass

from services.chassis.errors import UnavailableError
from services.gateway.metrics import SHARED_EVENTS
from services.gateway.shared.turn_log import End, TurnLog
from services.gateway.shared_store import StoreAwayError
from services.gateway.turn import Turn

# An answer has at most 4,096 tokens: a turn that behaves meets neither bound.
MOST_EVENTS = 10_000
MOST_CHARACTERS = 1_000_000
BATCH_EVENTS = 500


@dataclass
class _Progress:
    """How far a turn has come in the log. `closed`: its end is there."""

    turn: Turn
    sent: int = 0
    closed: bool = False
    ended_at: float | None = None


class Publisher:
    """Our turns by attempt, until their ends are in the log."""

    def __init__(self, log: TurnLog, linger_seconds: float, keep_seconds: float) -> None:
        self._log, self._linger_seconds, self._keep_seconds = log, linger_seconds, keep_seconds
        self._turns: dict[str, _Progress] = {}
        # A set that keeps the order of the news.
        self._behind: dict[str, None] = {}
        self._news = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether a turn of ours runs, or its end has not arrived."""
        return bool(self._turns)

    def announce(self, turn: Turn) -> None:
        """There is more of the turn. One that ended before anything was shown matters only to who
        shares its request_id.
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
        """Cancel a turn of ours, as somebody told another gateway."""
        found = [progress.turn for progress in self._turns.values() if progress.turn.message_id == message_id]
        return any([turn.cancel() for turn in found])

    def forget(self, caller_key: str) -> None:
        """Nothing more of a user's turns, which have ended, goes to the log."""
        for attempt in [of for of, progress in self._turns.items() if progress.turn.caller.key == caller_key]:
            del self._turns[attempt]

    def look_again(self) -> None:
        """Compare all turns with the log: it may have forgotten some, or another gateway may have
        taken one over.
        """
        oldest = time.monotonic() - self._keep_seconds
        for attempt, progress in list(self._turns.items()):
            if progress.ended_at and progress.ended_at < oldest:
                del self._turns[attempt]
            else:
                self._mark(attempt)

    async def serve(self) -> None:
        """Send, for ever."""
        while True:
            await self._news.wait()
            await asyncio.sleep(self._linger_seconds)
            await self._log.returned()
            self._news.clear()
            behind, self._behind = list(self._behind), {}
            await asyncio.gather(*map(self._bring, behind))

    async def drain(self, seconds: float) -> None:
        """Give the ends of turns time to arrive."""
        until = time.monotonic() + seconds
        while self.busy and time.monotonic() < until:
            await asyncio.sleep(self._linger_seconds)

    def _mark(self, attempt: str) -> None:
        self._behind[attempt] = None
        self._news.set()

    async def _bring(self, attempt: str) -> None:
        progress = self._turns.get(attempt)
        if progress is None:
            return
        try:
            await self._append(progress)
        except StoreAwayError:
            self._mark(attempt)

    async def _append(self, progress: _Progress) -> None:
        turn = progress.turn
        events = [] if progress.closed else turn.events[progress.sent : progress.sent + BATCH_EVENTS]
        end = None if progress.closed else _end(turn, progress.sent + len(events))
        last = await self._log.append(turn, events, progress.sent + 1, end)
        if last is None:
            self._turns.pop(turn.attempt, None)
            turn.supersede()
            return
        SHARED_EVENTS.inc(max(0, last - progress.sent))
        progress.closed = progress.closed or (end is not None and last == progress.sent + len(events))
        progress.sent = last
        if progress.closed and turn.ended:
            self._turns.pop(turn.attempt, None)
        elif not progress.closed and (last < len(turn.events) or turn.ended):
            self._mark(turn.attempt)


def _end(turn: Turn, sent: int) -> End | None:
    """What comes after so many events: more of them, the end, or too much."""
    if sent > MOST_EVENTS or len(turn.text) > MOST_CHARACTERS:
        return End(UnavailableError("the answer is too long to be followed elsewhere", reason="TURN_TOO_LONG_TO_SHARE"))
    return End(turn.error) if turn.ended and sent == len(turn.events) else None
