"""Chat streams that are held open while a gateway ends."""

import asyncio

from tests.services.gateway.fakes import Backends

DELTAS = [f"word{number} " for number in range(12)]
HELD_AT = 4


def hold_streams(fakes: Backends) -> asyncio.Event:
    """Pause answers in the middle until the event is set."""
    go = asyncio.Event()

    async def gate(number: int) -> None:
        if number == HELD_AT:
            await go.wait()
        await asyncio.sleep(0.01)

    fakes.generator.deltas, fakes.generator.gate = DELTAS, gate
    return go
