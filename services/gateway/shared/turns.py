"""Turns shared through Valkey: publishes local turns and follows those of other gateways."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import UnavailableError
from services.chassis.identity import Caller
from services.contracts.limits import field_error
from services.gateway.background_tasks import background_tasks
from services.gateway.metrics import CLAIMS, HANDED_OVER, REMOTE_STOPS
from services.gateway.shared import StoreUnavailableError
from services.gateway.shared.encryption import KeyDerivation
from services.gateway.shared.erasure_requests import ErasureRequests
from services.gateway.shared.publisher import Publisher
from services.gateway.shared.remote_readers import RemoteReaders
from services.gateway.shared.turn_log import ABANDONED_LEASES, TurnLog, TurnState
from services.gateway.shared.valkey_client import ValkeyClient
from services.gateway.turns.turn import Claim, Turn
from services.gateway.turns.turns import answer_restarted, turn_not_found

# A claim fails against a concurrent claim. The new state is then examined.
MAX_CLAIMS = 3
HEARTBEATS_PER_LEASE = 4
DOUBT_LEASES = 1.5
DRAIN_SECONDS = 1.0
# Longest delay from the first event of a turn until other gateways see the turn.
PROPAGATION_SECONDS = 0.25


class ValkeyTurns:
    """Implements `turn.Announcer` and `turns.RemoteTurns`."""

    def __init__(
        self,
        valkey: ValkeyClient,
        log: TurnLog,
        publisher: Publisher,
        readers: RemoteReaders,
        erasures: ErasureRequests,
        lease_seconds: float,
    ) -> None:
        self._valkey, self._log, self._publisher, self._readers = valkey, log, publisher, readers
        self._erasures, self._lease_seconds = erasures, lease_seconds

    async def claim(self, turn: Turn, *, in_doubt: bool) -> Claim:
        if not turn.request.request_id:
            return Claim.OURS
        try:
            if in_doubt:
                # A running turn may be missing in Valkey. Its gateway republishes within a lease.
                give_up_at = time.monotonic() + DOUBT_LEASES * self._lease_seconds
                while (  # noqa: ASYNC110
                    await self._log.state(turn.message_id) is None and time.monotonic() < give_up_at
                ):
                    await asyncio.sleep(PROPAGATION_SECONDS / 5)
            claim = await self._claim(turn)
        except StoreUnavailableError:
            # The id of a first attempt is known only here. An earlier attempt may run elsewhere.
            claim = Claim.UNKNOWN if turn.restarted else Claim.OURS
        CLAIMS.labels(claim).inc()
        return claim

    def announce(self, turn: Turn) -> None:
        self._publisher.announce(turn)

    async def follow(self, turn: Turn) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        state = await self._state(turn.caller, turn.message_id)
        async with aclosing(self._readers.follow(state, 0)) as events:
            async for event in events:
                yield event

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        state = await self._state(caller, message_id)
        if state.restarted and after_sequence:
            raise answer_restarted()
        if state.events is not None and after_sequence > state.events:
            raise field_error("after_sequence", f"at most the last sequence, {state.events}")
        return self._readers.follow(state, after_sequence)

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        state = await self._state(caller, message_id)
        if state.events is not None or not await self._is_alive(state.gateway):
            return False
        await self._log.request_stop(state.gateway, message_id)
        REMOTE_STOPS.inc()
        return True

    def hand_over(self) -> bool:
        # Without Valkey other gateways cannot continue the turns, so readers stay.
        if not self._valkey.connected:
            return False
        HANDED_OVER.inc(self._readers.hand_over())
        return True

    async def send_heartbeats(self) -> None:
        """Send heartbeats and compare local turns with the log periodically, until cancelled."""
        heartbeats = 0
        while True:
            await self._valkey.wait_until_connected()
            try:
                await self._erasures.heartbeat()
                # At once after a reconnection, because Valkey may have lost the last second.
                if heartbeats % HEARTBEATS_PER_LEASE == 0:
                    self._publisher.recheck_all()
                heartbeats += 1
            except StoreUnavailableError:
                heartbeats = 0
                continue
            await asyncio.sleep(self._lease_seconds / HEARTBEATS_PER_LEASE)

    async def process_stop_requests(self, poll_seconds: float) -> None:
        """Stop local turns at the request of other gateways, until cancelled."""
        while True:
            await self._valkey.wait_until_connected()
            if self._publisher.busy:
                with suppress(StoreUnavailableError):
                    for message_id in await self._log.take_stop_requests():
                        self._publisher.stop(message_id)
            await asyncio.sleep(poll_seconds)

    async def _claim(self, turn: Turn) -> Claim:
        instead_of = ""
        for _ in range(MAX_CLAIMS):
            current = await self._log.claim(turn, instead_of)
            if current is None:
                return Claim.OURS
            # An ended turn without events counts as unanswered. A turn of this gateway has failed
            # before.
            if current.events is not None:
                is_answered = current.events > 0
            elif is_answered := (
                current.gateway != self._log.gateway and await self._is_alive(current.gateway)
            ):
                # A failover of Valkey may bring back a turn from before its end.
                state = await self._log.state(turn.message_id)
                abandoned_seconds = ABANDONED_LEASES * self._lease_seconds
                is_answered = not (state and state.idle_seconds > abandoned_seconds)
            if is_answered:
                return Claim.ELSEWHERE
            instead_of = current.attempt
        raise UnavailableError(
            "too many concurrent claims of this turn", reason="TURN_CONTENDED", retry_seconds=1
        )

    async def _is_alive(self, gateway: str) -> bool:
        """Wait up to a lease for a heartbeat, because a flushed Valkey has lost all heartbeats."""
        give_up_at = time.monotonic() + self._lease_seconds
        while not await self._log.is_alive(gateway):
            if time.monotonic() >= give_up_at:
                return False
            await asyncio.sleep(self._lease_seconds / HEARTBEATS_PER_LEASE)
        return True

    async def _state(self, caller: Caller, message_id: str) -> TurnState:
        """Return the state of the caller's turn.

        The first batch may be in transit, so missing turns are looked up again for a short time.
        Turns of other users are treated as missing.

        Raises:
            NotFoundError: The turn is unknown or belongs to another user.
        """
        give_up_at = time.monotonic() + PROPAGATION_SECONDS
        while True:
            state = await self._log.state(message_id)
            if state and state.caller_key == caller.key:
                return state
            if time.monotonic() >= give_up_at:
                raise turn_not_found()
            await asyncio.sleep(PROPAGATION_SECONDS / 5)


@dataclass(frozen=True)
class SharingIntervals:
    """Intervals of sharing, in seconds.

    Retention after the last event, lease of a gateway, linger of events, and polling of others."""

    keep_seconds: float
    lease_seconds: float
    linger_seconds: float
    poll_seconds: float


@asynccontextmanager
async def shared_turns(
    valkey: ValkeyClient, keys: KeyDerivation, intervals: SharingIntervals
) -> AsyncIterator[tuple[ValkeyTurns, ErasureRequests]]:
    """Share turns during the block.

    The gateway has a new random name. After a restart it does not own turns of the previous
    process.
    """
    log = TurnLog(valkey, keys, uuid.uuid4().hex, intervals.keep_seconds)
    publisher = Publisher(log, intervals.linger_seconds, intervals.keep_seconds)
    readers = RemoteReaders(log, intervals.poll_seconds, intervals.lease_seconds)
    erasures = ErasureRequests(
        valkey, log, publisher, intervals.lease_seconds, intervals.keep_seconds
    )
    turns = ValkeyTurns(valkey, log, publisher, readers, erasures, intervals.lease_seconds)
    stop_requests = partial(turns.process_stop_requests, intervals.poll_seconds)
    async with background_tasks(
        publisher.serve, readers.serve, turns.send_heartbeats, stop_requests, erasures.serve
    ):
        yield turns, erasures
        # Local turns have ended. Publish their ends before closing.
        await publisher.drain(DRAIN_SECONDS)
