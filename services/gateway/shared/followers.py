"""Reads the turns of other gateways for whoever resumes one here: all streams in one question, many
times a second.

Asking beats being told: no connection of its own waits for news, and an outage looks the same to
every use. A gateway counts as lost when its beat was missing for a whole lease, so that a Valkey
that has just come back is no death.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from services.chassis.errors import ServiceError, UnavailableError
from services.gateway.events import TurnEvent
from services.gateway.metrics import GATEWAYS_LOST
from services.gateway.request import wrong
from services.gateway.shared.turn_log import End, TurnLog, TurnState, opened
from services.gateway.shared_store import StoreAwayError
from services.gateway.turn import moved_error
from services.gateway.turns import began_anew


@dataclass(eq=False)
class _Reader:
    """Who reads one stream; `last` is the sequence that it has. Ends with a failure, or whole."""

    state: TurnState
    last: int
    pending: list[TurnEvent] = field(default_factory=list)
    failure: ServiceError | None = None
    done: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    missed_since: float | None = None

    def take(self, entries: Sequence[TurnEvent | End], first: int) -> None:
        """Entries of the stream, whose first has this sequence."""
        for sequence, entry in enumerate(entries, first):
            if sequence <= self.last or self.done:
                continue
            if sequence != self.last + 1:
                self.fail(lost_events())
            elif isinstance(entry, End):
                self.failure, self.done = entry.error, True
            else:
                self.pending.append(entry)
                self.last = sequence
            self.changed.set()

    def fail(self, error: ServiceError) -> None:
        """No more comes."""
        if not self.done:
            self.failure, self.done = error, True
            self.changed.set()


class Followers:
    """Everybody who reads a turn of another gateway."""

    def __init__(self, log: TurnLog, look_seconds: float, lease_seconds: float) -> None:
        self._log, self._look_seconds, self._lease_seconds = log, look_seconds, lease_seconds
        self._readers: dict[str, set[_Reader]] = {}
        # Gateways without a beat: since when, and when they were looked for last.
        self._missing: dict[str, tuple[float, float]] = {}
        self._some = asyncio.Event()
        self._moved = False

    async def follow(self, state: TurnState, after_sequence: int) -> AsyncGenerator[TurnEvent, None]:
        """Events after a sequence to the end of the turn.

        Raises:
            ServiceError: the turn's own, after its last event.
            InvalidArgumentError: the sequence was never sent.
            UnavailableError: GATEWAY_LOST, EVENTS_LOST, RESUME_ELSEWHERE.
            StoreAwayError: Valkey went away.
        """
        reader = _Reader(state, after_sequence)
        self._readers.setdefault(state.stream, set()).add(reader)
        self._some.set()
        try:
            while True:
                reader.changed.clear()
                pending, reader.pending = reader.pending, []
                for event in pending:
                    yield event
                if reader.done and not reader.pending:
                    break
                if self._moved:
                    raise moved_error()
                await reader.changed.wait()
        finally:
            self._leave(reader)
        if reader.failure:
            raise reader.failure

    def hand_over(self) -> int:
        """This process ends: everybody goes on elsewhere. How many they were."""
        self._moved = True
        readers = self._all()
        for reader in readers:
            reader.changed.set()
        return len(readers)

    async def serve(self) -> None:
        """Read while anybody reads, for ever."""
        look_at, answered_at = 0.0, time.monotonic()
        while True:
            await self._some.wait()
            try:
                await self._read()
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._lease_seconds / 2
                    await self._look()
                answered_at = time.monotonic()
            except StoreAwayError as error:
                # Who reads already waits as long as for a gateway: most absences are shorter.
                if time.monotonic() - answered_at >= self._lease_seconds:
                    for reader in self._all():
                        reader.fail(error)
            await asyncio.sleep(self._look_seconds)

    def _all(self) -> list[_Reader]:
        return [reader for readers in self._readers.values() for reader in readers]

    def _leave(self, reader: _Reader) -> None:
        readers = self._readers.get(reader.state.stream, set())
        readers.discard(reader)
        if not readers:
            self._readers.pop(reader.state.stream, None)
        if not self._readers:
            self._some.clear()

    async def _read(self) -> None:
        after = {stream: min(reader.last for reader in readers) for stream, readers in self._readers.items()}
        for stream, found in (await self._log.read(after)).items():
            readers = self._readers.get(stream, set())
            try:
                box = self._log.box(stream)
                entries = [opened(box, kind, sealed) for _, kind, sealed in found]
            except UnavailableError as error:
                for reader in readers:
                    reader.fail(error)
                continue
            for reader in readers:
                reader.take(entries, found[0][0])

    async def _look(self) -> None:
        """Do the gateways live, and are the turns still theirs?"""
        readers = [reader for reader in self._all() if not reader.done]
        gateways = list({reader.state.gateway for reader in readers})
        ids = list({reader.state.message_id for reader in readers})
        lives = await asyncio.gather(*map(self._log.lives, gateways))
        lost = {gateway for gateway, alive in zip(gateways, lives, strict=True) if self._is_lost(gateway, alive)}
        states = dict(zip(ids, await asyncio.gather(*map(self._log.state, ids)), strict=True))
        for reader in readers:
            state = states[reader.state.message_id]
            if state and state.attempt != reader.state.attempt:
                reader.fail(began_anew())
            elif state and state.events is not None and reader.last > state.events:
                reader.fail(wrong("after_sequence", f"at most the last sequence, {state.events}"))
            elif state and state.events is not None:
                self._miss(reader)
            elif reader.state.gateway in lost:
                GATEWAYS_LOST.inc()
                reader.fail(gateway_lost())
            elif state is None:
                self._miss(reader)
            else:
                reader.missed_since = None

    def _is_lost(self, gateway: str, alive: bool) -> bool:
        """Whether it was missing for a whole lease, whenever it was looked for."""
        now = time.monotonic()
        since, seen = self._missing.pop(gateway, (now, now))
        if alive:
            return False
        if now - seen > self._lease_seconds:
            since = now
        self._missing[gateway] = (since, now)
        return now - since >= self._lease_seconds

    def _miss(self, reader: _Reader) -> None:
        """The turn is not in the log, or its end is and was not read: gone for good unless its
        gateway soon sends it again.
        """
        reader.missed_since = reader.missed_since or time.monotonic()
        if time.monotonic() - reader.missed_since >= 2 * self._lease_seconds:
            reader.fail(lost_events())


def gateway_lost() -> UnavailableError:
    """Text so far is all there is of this attempt."""
    return UnavailableError(
        "the gateway that answered was lost: send the question again, with the same request_id or as a new one",
        reason="GATEWAY_LOST",
        retry_seconds=1,
    )


def lost_events() -> UnavailableError:
    """The shared store has lost a part."""
    return UnavailableError(
        "a part of the answer is no longer kept: read the conversation", reason="EVENTS_LOST", retry_seconds=1
    )
