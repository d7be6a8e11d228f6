"""Which replica relays: signs of life keep the lease, silence loses it, and no clock but the
watcher's own counts.
"""

import asyncio
from typing import Any

from services.session.backends import open_database
from services.session.database import Database
from services.session.lease import Lease
from services.session.outbox import Outbox
from services.session.relay import Relay, RelayPace
from services.session.statements import ADD_RECORDS
from tests.services.session.service import LIMITS, Home


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_the_lease_is_taken_over_after_a_silence_and_not_before(home: Home) -> None:
    one_clock, other_clock = Clock(), Clock()
    one, other = Lease(3.0, one_clock), Lease(3.0, other_clock)
    async with open_database(home.database_url, LIMITS) as database:
        assert await database.write(one.take)
        assert not await database.write(other.take)
        one_clock.seconds = 1_000.0
        other_clock.seconds = 2.9
        assert not await database.write(other.take), "the holder's clock counts for nothing"
        assert await database.write(one.take)
        other_clock.seconds = 3.1
        assert not await database.write(other.take), "there was a sign of life"
        other_clock.seconds = 6.2
        assert await database.write(other.take)
        assert not await database.write(one.take), "whoever came back sees who relays now"


async def test_a_released_lease_is_free_at_once_and_only_its_holder_releases_it(home: Home) -> None:
    one, other = Lease(3.0), Lease(3.0)
    async with open_database(home.database_url, LIMITS) as database:
        assert await database.write(one.take)
        await database.write(other.release)
        assert not await database.write(other.take)
        await database.write(one.release)
        assert await database.write(other.take)


class SlowLog:
    """Takes a while; counts."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0

    async def append(self, payloads: Any) -> None:
        self.calls += 1
        await asyncio.sleep(self.seconds)


async def test_a_batch_that_takes_longer_than_the_lease_is_sent_by_one_replica(home: Home) -> None:
    async with open_database(home.database_url, LIMITS) as database:
        await add_record(database)
        slow, eager = SlowLog(1.0), SlowLog(0.0)
        relay = Relay(Outbox(database, Lease(0.4)), slow, RelayPace(1.0, 0.0, 1.0, 0.1))
        standby = Relay(Outbox(database, Lease(0.4)), eager, RelayPace(1.0, 0.0, 1.0, 0.1))
        relaying = asyncio.create_task(relay.relay_batch())
        await asyncio.sleep(0.1)
        while not relaying.done():
            await standby.relay_batch()
            await asyncio.sleep(0.05)
        assert await relaying is False
        assert (slow.calls, eager.calls) == (1, 0)


async def test_a_relay_that_died_in_mid_batch_is_taken_over(home: Home) -> None:
    async with open_database(home.database_url, LIMITS) as database:
        await add_record(database)
        dead = Outbox(database, Lease(0.3))
        assert (await dead.claim()).rows
        log = SlowLog(0.0)
        standby = Relay(Outbox(database, Lease(0.3)), log, RelayPace(0.1, 0.0, 1.0, 0.1))
        running = asyncio.create_task(standby.run())
        async with asyncio.timeout(10):
            while not log.calls:
                await asyncio.sleep(0.02)
        running.cancel()


async def add_record(database: Database) -> None:
    row = {"conversation_id": "c", "refused": False, "erased": False, "payload": b"one"}
    await database.write(lambda connection: connection.execute(ADD_RECORDS, [row]))
