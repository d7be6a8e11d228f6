"""Periodic comparison of projections, also after failures."""

import asyncio
from contextlib import suppress

from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.projections.projection import catch_up_periodically


async def test_an_unavailable_store_is_retried() -> None:
    looks = []

    def catch_up() -> None:
        looks.append("away" if not looks else "there")
        if looks == ["away"]:
            raise ObjectStoreError("away")

    looking = asyncio.create_task(catch_up_periodically(catch_up, every_seconds=0.001))
    async with asyncio.timeout(30):
        while len(looks) < 3:
            await asyncio.sleep(0.001)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    assert looks[:3] == ["away", "there", "there"]
