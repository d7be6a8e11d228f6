"""Requests to all gateways to remove the turns of a user: a short stream in Valkey.

The heartbeat of a gateway contains the last processed request. The requester can thus wait for all
gateways, and a gateway continues after a disconnection.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from services.chassis.errors import UnavailableError
from services.gateway.shared.publisher import Publisher
from services.gateway.shared.turn_log import TurnLog
from services.gateway.shared.valkey_client import Script, Use, ValkeyClient

REQUESTS_KEY = "tw:erasures"
NOTHING = "0-0"
MAX_REQUESTS = 1_000
# Time limit for all gateways in leases, in addition to the time for stopping turns.
LEASES_TO_PROCESS = 2
STOP_SECONDS = 5.0
POLLS_PER_LEASE = 8

# KEYS: stream of requests. ARGV: user, ms to live. Reply: id of the request, derived from the
# server's time.
ADD_REQUEST = Script("""
local clock = redis.call('TIME')
local oldest = string.format('%d', clock[1] * 1000 - ARGV[2])
local id = redis.call('XADD', KEYS[1], 'MINID', '~', oldest, '*', 'caller', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return id
""")


class ErasureRequests:
    """Implements `turns.TurnHistory` with a stream in Valkey."""

    def __init__(
        self,
        valkey: ValkeyClient,
        log: TurnLog,
        publisher: Publisher,
        lease_seconds: float,
        keep_seconds: float,
    ) -> None:
        self._valkey, self._log, self._publisher = valkey, log, publisher
        self._lease_seconds, self._keep_ms = lease_seconds, int(1000 * keep_seconds)
        self._poll_seconds = lease_seconds / POLLS_PER_LEASE
        self._forget: Callable[[str], Awaitable[None]] | None = None
        # None until the first read. Requests from before the start of this process are irrelevant.
        self._processed: str | None = None

    def on_forget(self, forget: Callable[[str], Awaitable[None]]) -> None:
        self._forget = forget

    async def forget(self, caller_key: str) -> None:
        request_id = (
            await self._valkey.run(
                Use.TURNS, ADD_REQUEST, [REQUESTS_KEY], caller_key, self._keep_ms
            )
        ).decode()
        await self._forget_here(caller_key)
        give_up_at = time.monotonic() + LEASES_TO_PROCESS * self._lease_seconds + STOP_SECONDS
        while any(
            _number(processed) < _number(request_id) for processed in await self._log.heartbeats()
        ):
            if time.monotonic() >= give_up_at:
                raise UnavailableError(
                    "a gateway still has turns of the user",
                    reason="GATEWAY_REMEMBERS",
                    retry_seconds=1,
                )
            await asyncio.sleep(self._poll_seconds)
        # Last, because a gateway could publish its turns again before the removal of its copy.
        await self._log.remove(caller_key)

    async def heartbeat(self) -> None:
        """Send a heartbeat with the last processed request.

        Raises:
            StoreUnavailableError: Valkey is unavailable.
        """
        if self._processed is None:
            newest = await self._valkey.call(
                Use.TURNS, "XREVRANGE", REQUESTS_KEY, "+", "-", "COUNT", 1
            )
            self._processed = newest[0][0].decode() if newest else NOTHING
        await self._log.heartbeat(int(1000 * self._lease_seconds), self._processed)

    async def serve(self) -> None:
        """Process erasure requests until cancelled."""
        while True:
            await self._valkey.wait_until_connected()
            # A failed request (turns still running) is retried in the next round.
            with suppress(UnavailableError):
                if self._processed is not None:
                    after = f"({self._processed}"
                    found = await self._valkey.call(
                        Use.TURNS, "XRANGE", REQUESTS_KEY, after, "+", "COUNT", MAX_REQUESTS
                    )
                    for request_id, entry in found:
                        await self._forget_here(entry[b"caller"].decode())
                        # Reported only after the removal. The requester waits for this heartbeat.
                        self._processed = request_id.decode()
                        await self.heartbeat()
            await asyncio.sleep(self._poll_seconds)

    async def _forget_here(self, caller_key: str) -> None:
        if self._forget:
            await self._forget(caller_key)
        self._publisher.forget(caller_key)


def _number(request_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = request_id.partition("-")
    return int(milliseconds), int(sequence or 0)
