"""Reads turns of other gateways for local readers. One query polls all streams.

Polling needs no connection of its own and treats outages like all other uses. A gateway counts as
lost after a whole lease without heartbeat. A restart of Valkey is therefore not mistaken for a lost
gateway.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError, UnavailableError
from services.contracts.limits import field_error
from services.gateway.metrics import READERS_LOST
from services.gateway.shared import StoreUnavailableError
from services.gateway.shared.turn_log import (
    ABANDONED_LEASES,
    End,
    TurnLog,
    TurnState,
    decrypt_entry,
)
from services.gateway.turns.turn import resume_elsewhere_error
from services.gateway.turns.turns import answer_restarted


@dataclass(eq=False)
class _Reader:
    """Reader of one stream. `last` is the newest sequence received."""

    state: TurnState
    last: int
    pending: list[chat_pb2.ChatEvent] = field(default_factory=list)
    failure: ServiceError | None = None
    done: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    missed_since: float | None = None

    def take(self, entries: Sequence[chat_pb2.ChatEvent | End], first: int) -> None:
        """Accept entries of the stream. `first` is the sequence of the first entry."""
        for sequence, entry in enumerate(entries, first):
            if sequence <= self.last or self.done:
                continue
            # A gap means lost entries in Valkey. Later text without the gap would be wrong.
            if sequence != self.last + 1:
                self.fail(lost_events())
            elif isinstance(entry, End):
                self.failure, self.done = entry.error, True
            else:
                self.pending.append(entry)
                self.last = sequence
            self.changed.set()

    def fail(self, error: ServiceError) -> None:
        """End the reader with an error."""
        if not self.done:
            self.failure, self.done = error, True
            self.changed.set()


class RemoteReaders:
    """All local readers of turns in other gateways."""

    def __init__(self, log: TurnLog, poll_seconds: float, lease_seconds: float) -> None:
        self._log, self._poll_seconds, self._lease_seconds = log, poll_seconds, lease_seconds
        self._readers: dict[str, set[_Reader]] = {}
        # Gateways without heartbeat: time of the first miss, and time of the last check.
        self._missing: dict[str, tuple[float, float]] = {}
        self._has_readers = asyncio.Event()
        self._handed_over = False

    async def follow(
        self, state: TurnState, after_sequence: int
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        """Yield events after a sequence until the end of the turn.

        Raises:
            ServiceError: Error of the turn, after its last event.
            InvalidArgumentError: The sequence was never sent.
            UnavailableError: GATEWAY_LOST, EVENTS_LOST or RESUME_ELSEWHERE.
            StoreUnavailableError: Valkey is unavailable.
        """
        reader = _Reader(state, after_sequence)
        self._readers.setdefault(state.stream, set()).add(reader)
        self._has_readers.set()
        try:
            while True:
                # Cleared before the pending events are taken, or a wakeup could be lost.
                reader.changed.clear()
                pending, reader.pending = reader.pending, []
                for event in pending:
                    yield event
                if reader.done and not reader.pending:
                    break
                if self._handed_over:
                    raise resume_elsewhere_error()
                await reader.changed.wait()
        finally:
            readers = self._readers.get(state.stream, set())
            readers.discard(reader)
            if not readers:
                self._readers.pop(state.stream, None)
            if not self._readers:
                self._has_readers.clear()
        if reader.failure:
            raise reader.failure

    def hand_over(self) -> int:
        """Send all readers to other gateways before this process ends. Returns their number."""
        self._handed_over = True
        readers = self._all()
        for reader in readers:
            reader.changed.set()
        return len(readers)

    async def serve(self) -> None:
        """Poll the streams while readers exist, until cancelled."""
        look_at, answered_at = 0.0, time.monotonic()
        while True:
            await self._has_readers.wait()
            try:
                # Readers of one stream share a query, from the position of the slowest.
                after = {
                    stream: min(reader.last for reader in readers)
                    for stream, readers in self._readers.items()
                }
                for stream, found in (await self._log.read(after)).items():
                    readers = self._readers.get(stream, set())
                    try:
                        encryptor = self._log.encryptor(stream)
                        entries = [
                            decrypt_entry(encryptor, kind, sealed) for _, kind, sealed in found
                        ]
                    except UnavailableError as error:
                        for reader in readers:
                            reader.fail(error)
                        continue
                    for reader in readers:
                        # A reader that joined during the query may need entries before its first.
                        if reader.last >= after[stream]:
                            reader.take(entries, found[0][0])
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._lease_seconds / 2
                    await self._check_gateways()
                answered_at = time.monotonic()
            except StoreUnavailableError as error:
                # Existing readers wait for a whole lease, because most outages are shorter.
                if time.monotonic() - answered_at >= self._lease_seconds:
                    for reader in self._all():
                        reader.fail(error)
            await asyncio.sleep(self._poll_seconds)

    def _all(self) -> list[_Reader]:
        return [reader for readers in self._readers.values() for reader in readers]

    async def _check_gateways(self) -> None:
        """Check that the gateways are alive and still own the turns."""
        readers = [reader for reader in self._all() if not reader.done]
        gateways = list({reader.state.gateway for reader in readers})
        ids = list({reader.state.message_id for reader in readers})
        alive = await asyncio.gather(*map(self._log.is_alive, gateways))
        lost = {
            gateway
            for gateway, answered in zip(gateways, alive, strict=True)
            if self._is_lost(gateway, answered)
        }
        states = dict(zip(ids, await asyncio.gather(*map(self._log.state, ids)), strict=True))
        for reader in readers:
            state = states[reader.state.message_id]
            if state and state.attempt != reader.state.attempt:
                reader.fail(answer_restarted())
            elif state and state.events is not None and reader.last > state.events:
                reader.fail(
                    field_error("after_sequence", f"at most the last sequence, {state.events}")
                )
            elif state and state.events is not None:
                self._mark_missing(reader)
            elif reader.state.gateway in lost:
                READERS_LOST.inc()
                reader.fail(gateway_lost())
            elif state is None or state.idle_seconds > ABANDONED_LEASES * self._lease_seconds:
                # Lost, or brought back by a failover of Valkey although the turn has ended.
                self._mark_missing(reader)
            else:
                reader.missed_since = None

    def _is_lost(self, gateway: str, alive: bool) -> bool:
        """Return True after a whole lease of checks without heartbeat."""
        now = time.monotonic()
        since, seen = self._missing.pop(gateway, (now, now))
        if alive:
            return False
        if now - seen > self._lease_seconds:
            since = now
        self._missing[gateway] = (since, now)
        return now - since >= self._lease_seconds

    def _mark_missing(self, reader: _Reader) -> None:
        """Fail a reader after two leases without the turn or its end in the log.

        Until then, the owner may publish the missing entries again.
        """
        reader.missed_since = reader.missed_since or time.monotonic()
        if time.monotonic() - reader.missed_since >= 2 * self._lease_seconds:
            reader.fail(lost_events())


def gateway_lost() -> UnavailableError:
    """Return the error for a lost gateway. The text so far is final for this attempt."""
    return UnavailableError(
        "the answering gateway was lost: repeat the request, with the same or a new request_id",
        reason="GATEWAY_LOST",
        retry_seconds=1,
    )


def lost_events() -> UnavailableError:
    """Return the error for events missing in the shared store."""
    return UnavailableError(
        "a part of the answer has expired: read the conversation",
        reason="EVENTS_LOST",
        retry_seconds=1,
    )
