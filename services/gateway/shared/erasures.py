"""Users whose turns all gateways must forget: a short stream of orders in Valkey. A gateway's beat
says how far it has obeyed.

So whoever erases knows when nobody remembers anything, and a gateway that was cut off reads on when
it is back.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from services.chassis.errors import UnavailableError
from services.gateway.shared.link import Link, Script, Use
from services.gateway.shared.publisher import Publisher
from services.gateway.shared.turn_log import TurnLog

ORDERS_KEY = "tw:erasures"
NOTHING = "0-0"
MOST_ORDERS = 1_000
# How long all gateways may take, in leases; what one of them needs to stop a turn comes on top.
LEASES_TO_OBEY = 2
STOP_SECONDS = 5.0
LOOKS_A_LEASE = 8

# KEYS: orders. ARGV: the user, ms to keep it. Reply: the order's id, which is the server's time.
ORDER = Script("""
local clock = redis.call('TIME')
local oldest = string.format('%d', clock[1] * 1000 - ARGV[2])
local id = redis.call('XADD', KEYS[1], 'MINID', '~', oldest, '*', 'caller', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return id
""")


class Erasures:
    """See `turns.Memories`."""

    def __init__(
        self, link: Link, log: TurnLog, publisher: Publisher, lease_seconds: float, keep_seconds: float
    ) -> None:
        self._link, self._log, self._publisher = link, log, publisher
        self._lease_seconds, self._keep_ms = lease_seconds, int(1000 * keep_seconds)
        self._look_seconds = lease_seconds / LOOKS_A_LEASE
        self._forget: Callable[[str], Awaitable[None]] | None = None
        # None: not yet looked, so that what was ordered before this process began is none of its
        # business.
        self._obeyed: str | None = None

    def when_asked(self, forget: Callable[[str], Awaitable[None]]) -> None:
        """See `turns.Memories`."""
        self._forget = forget

    async def forget(self, caller_key: str) -> None:
        """See `turns.Memories`."""
        order = (await self._link.run(Use.TURNS, ORDER, [ORDERS_KEY], caller_key, self._keep_ms)).decode()
        await self._forget_here(caller_key)
        give_up_at = time.monotonic() + LEASES_TO_OBEY * self._lease_seconds + STOP_SECONDS
        while any(_number(obeyed) < _number(order) for obeyed in await self._log.beats()):
            if time.monotonic() >= give_up_at:
                raise UnavailableError("a gateway has not forgotten yet", reason="GATEWAY_REMEMBERS", retry_seconds=1)
            await asyncio.sleep(self._look_seconds)
        await self._log.remove(caller_key)

    async def beat(self) -> None:
        """This gateway lives. Raises: StoreAwayError."""
        if self._obeyed is None:
            self._obeyed = await self._newest()
        await self._log.beat(int(1000 * self._lease_seconds), self._obeyed)

    async def serve(self) -> None:
        """Obey, for ever."""
        while True:
            await self._link.returned()
            # Turns that still run, too, are looked for again.
            with suppress(UnavailableError):
                await self._obey()
            await asyncio.sleep(self._look_seconds)

    async def _obey(self) -> None:
        if self._obeyed is None:
            return
        for order, caller_key in await self._after(self._obeyed):
            await self._forget_here(caller_key)
            self._obeyed = order
            await self.beat()

    async def _forget_here(self, caller_key: str) -> None:
        if self._forget:
            await self._forget(caller_key)
        self._publisher.forget(caller_key)

    async def _newest(self) -> str:
        newest = await self._link.call(Use.TURNS, "XREVRANGE", ORDERS_KEY, "+", "-", "COUNT", 1)
        return newest[0][0].decode() if newest else NOTHING

    async def _after(self, order: str) -> Sequence[tuple[str, str]]:
        found = await self._link.call(Use.TURNS, "XRANGE", ORDERS_KEY, f"({order}", "+", "COUNT", MOST_ORDERS)
        return [(entry[0].decode(), entry[1][b"caller"].decode()) for entry in found]


def _number(order: str) -> tuple[int, int]:
    milliseconds, _, sequence = order.partition("-")
    return int(milliseconds), int(sequence or 0)
