"""Our turns told to other gateways, and theirs told here. See `turn.Announcer` and
`turns.OtherGateways`.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

from services.chassis.errors import UnavailableError
from services.chassis.identity import Caller
from services.gateway.events import TurnEvent
from services.gateway.loops import looping
from services.gateway.metrics import CLAIMS, HANDED_OVER, STOPS_ELSEWHERE
from services.gateway.request import wrong
from services.gateway.shared.erasures import Erasures
from services.gateway.shared.followers import Followers
from services.gateway.shared.link import Link
from services.gateway.shared.publisher import Publisher
from services.gateway.shared.seal import Seal
from services.gateway.shared.turn_log import TurnLog, TurnState
from services.gateway.shared_store import StoreAwayError
from services.gateway.turn import Claim, Turn
from services.gateway.turns import began_anew, nothing_kept

# A claim is lost to another one that came at the same time: then that one's state is looked at.
MOST_CLAIMS = 3
BEATS_A_LEASE = 4
LEASES_OF_DOUBT = 1.5
DRAIN_SECONDS = 1.0
# From the first event of a turn until other gateways know of it.
ARRIVAL_SECONDS = 0.25


class ValkeyTurns:
    """Claims, announces, follows, stops."""

    def __init__(
        self, link: Link, log: TurnLog, publisher: Publisher, followers: Followers, erasures: Erasures, lease_seconds: float
    ) -> None:
        self._link, self._log, self._publisher, self._followers = link, log, publisher, followers
        self._erasures, self._lease_seconds = erasures, lease_seconds

    async def claim(self, turn: Turn, *, in_doubt: bool) -> Claim:
        """See `turn.Announcer`."""
        if not turn.request.request_id:
            return Claim.OURS
        try:
            if in_doubt:
                await self._wait_for_sign(turn.message_id)
            claim = await self._claim(turn)
        except StoreAwayError:
            # Whoever began it now is the only one who knows its id.
            claim = Claim.UNKNOWN if turn.anew else Claim.OURS
        CLAIMS.labels(claim).inc()
        return claim

    def announce(self, turn: Turn) -> None:
        """See `turn.Announcer`."""
        self._publisher.announce(turn)

    async def follow(self, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        """See `turn.Announcer`."""
        state = await self._state(turn.caller, turn.message_id)
        async with aclosing(self._followers.follow(state, 0)) as events:
            async for event in events:
                yield event

    async def resume(self, caller: Caller, message_id: str, after_sequence: int) -> AsyncGenerator[TurnEvent, None]:
        """See `turns.OtherGateways`."""
        state = await self._state(caller, message_id)
        if state.anew and after_sequence:
            raise began_anew()
        if state.events is not None and after_sequence > state.events:
            raise wrong("after_sequence", f"at most the last sequence, {state.events}")
        return self._followers.follow(state, after_sequence)

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        """See `turns.OtherGateways`."""
        state = await self._state(caller, message_id)
        if state.events is not None or not await self._lives(state.gateway):
            return False
        await self._log.order_stop(state.gateway, message_id)
        STOPS_ELSEWHERE.inc()
        return True

    def hand_over(self) -> bool:
        """See `turns.OtherGateways`."""
        if not self._link.up:
            return False
        HANDED_OVER.inc(self._followers.hand_over())
        return True

    async def serve_beat(self) -> None:
        """Show that this gateway lives, and compare our turns with the log now and then, for ever."""
        beats = 0
        while True:
            await self._link.returned()
            try:
                await self._erasures.beat()
                # At once when Valkey is back: it may have lost the last second.
                if beats % BEATS_A_LEASE == 0:
                    self._publisher.look_again()
                beats += 1
            except StoreAwayError:
                beats = 0
                continue
            await asyncio.sleep(self._lease_seconds / BEATS_A_LEASE)

    async def serve_orders(self, look_seconds: float) -> None:
        """Stop what others want stopped, for ever."""
        while True:
            await self._link.returned()
            if self._publisher.busy:
                with suppress(StoreAwayError):
                    for message_id in await self._log.take_orders():
                        self._publisher.stop(message_id)
            await asyncio.sleep(look_seconds)

    async def _wait_for_sign(self, message_id: str) -> None:
        """Valkey may have forgotten a turn that runs; its gateway brings it again within a lease."""
        give_up_at = time.monotonic() + LEASES_OF_DOUBT * self._lease_seconds
        while await self._log.state(message_id) is None and time.monotonic() < give_up_at:
            await asyncio.sleep(ARRIVAL_SECONDS / 5)

    async def _claim(self, turn: Turn) -> Claim:
        instead_of = ""
        for _ in range(MOST_CLAIMS):
            there = await self._log.claim(turn, instead_of)
            if there is None:
                return Claim.OURS
            if await self._is_answered(there):
                return Claim.ELSEWHERE
            instead_of = there.attempt
        raise UnavailableError("many ask for this turn at once", reason="TURN_CONTENDED", retry_seconds=1)

    async def _is_answered(self, there: TurnState) -> bool:
        """Ended ones are, unless nothing was shown; running ones are while their gateway lives. One
        of our own has failed.
        """
        if there.events is not None:
            return there.events > 0
        return there.gateway != self._log.gateway and await self._lives(there.gateway)

    async def _lives(self, gateway: str) -> bool:
        """Whether a gateway beats within a lease: a Valkey that was flushed has forgotten that it
        did.
        """
        give_up_at = time.monotonic() + self._lease_seconds
        while not await self._log.lives(gateway):
            if time.monotonic() >= give_up_at:
                return False
            await asyncio.sleep(self._lease_seconds / BEATS_A_LEASE)
        return True

    async def _state(self, caller: Caller, message_id: str) -> TurnState:
        """The caller's turn. Its first batch may be on its way, so what is missing is looked for
        again; a stranger's is missing.
        """
        give_up_at = time.monotonic() + ARRIVAL_SECONDS
        while True:
            state = await self._log.state(message_id)
            if state and state.caller_key == caller.key:
                return state
            if time.monotonic() >= give_up_at:
                raise nothing_kept()
            await asyncio.sleep(ARRIVAL_SECONDS / 5)


@dataclass(frozen=True)
class SharingPace:
    """How long events are kept after the last one, a gateway may be silent, events collect; and how
    often others are looked for.
    """

    keep_seconds: float
    lease_seconds: float
    linger_seconds: float
    look_seconds: float


@asynccontextmanager
async def shared_turns(link: Link, seal: Seal, pace: SharingPace) -> AsyncIterator[tuple[ValkeyTurns, Erasures]]:
    """Under a name that no gateway had before: after a restart it answers none of the turns of its
    former life.
    """
    log = TurnLog(link, seal, uuid.uuid4().hex, pace.keep_seconds)
    publisher = Publisher(log, pace.linger_seconds, pace.keep_seconds)
    followers = Followers(log, pace.look_seconds, pace.lease_seconds)
    erasures = Erasures(link, log, publisher, pace.lease_seconds, pace.keep_seconds)
    turns = ValkeyTurns(link, log, publisher, followers, erasures, pace.lease_seconds)
    orders = partial(turns.serve_orders, pace.look_seconds)
    async with looping(publisher.serve, followers.serve, turns.serve_beat, orders, erasures.serve):
        yield turns, erasures
        # Our turns have ended: let others know.
        await publisher.drain(DRAIN_SECONDS)
