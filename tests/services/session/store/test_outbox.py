"""Lease of the relay: renewal, takeover, release, and independence of other clocks."""

import asyncio
from typing import Any

from services.session.relay import Relay, RelayIntervals
from services.session.store.database import Database
from services.session.store.outbox import Lease, Outbox
from services.session.store.schema import open_database
from services.session.store.tables import ADD_RECORDS
from tests.services.session.service import LIMITS, Home


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_lease_is_taken_over_only_after_its_duration_without_renewal(home: Home) -> None:
    one_clock, other_clock = Clock(), Clock()
    one, other = Lease(3.0, one_clock), Lease(3.0, other_clock)
    async with open_database(home.database_url, LIMITS) as database:
        assert await database.write(one.acquire)
        assert not await database.write(other.acquire)
        one_clock.seconds = 1_000.0
        other_clock.seconds = 2.9
        assert not await database.write(other.acquire), "the holder's clock has no effect"
        assert await database.write(one.acquire)
        other_clock.seconds = 3.1
        assert not await database.write(other.acquire), "the lease was renewed"
        other_clock.seconds = 6.2
        assert await database.write(other.acquire)
        assert not await database.write(one.acquire), "the old holder sees the new holder"


async def test_only_the_holder_can_release_a_lease(home: Home) -> None:
    one, other = Lease(3.0), Lease(3.0)
    async with open_database(home.database_url, LIMITS) as database:
        assert await database.write(one.acquire)
        await database.write(other.release)
        assert not await database.write(other.acquire)
        await database.write(one.release)
        assert await database.write(other.acquire)


class SlowTurnLog:
    """Fake `TurnLog` with a delay and a count of calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0

    async def append(self, payloads: Any) -> None:
        self.calls += 1
        await asyncio.sleep(self.seconds)


async def test_batch_longer_than_the_lease_is_sent_by_one_replica(home: Home) -> None:
    async with open_database(home.database_url, LIMITS) as database:
        await add_record(database)
        slow, eager = SlowTurnLog(1.0), SlowTurnLog(0.0)
        relay = Relay(Outbox(database, Lease(0.4)), slow, RelayIntervals(1.0, 0.0, 1.0, 0.1))
        standby = Relay(Outbox(database, Lease(0.4)), eager, RelayIntervals(1.0, 0.0, 1.0, 0.1))
        relaying = asyncio.create_task(relay.relay_batch())
        await asyncio.sleep(0.1)
        while not relaying.done():
            await standby.relay_batch()
            await asyncio.sleep(0.05)
        assert await relaying is False
        assert (slow.calls, eager.calls) == (1, 0)


async def test_relay_that_died_during_a_batch_is_taken_over(home: Home) -> None:
    async with open_database(home.database_url, LIMITS) as database:
        await add_record(database)
        dead = Outbox(database, Lease(0.3))
        assert (await dead.claim()).rows
        log = SlowTurnLog(0.0)
        standby = Relay(Outbox(database, Lease(0.3)), log, RelayIntervals(0.1, 0.0, 1.0, 0.1))
        running = asyncio.create_task(standby.run())
        async with asyncio.timeout(10):
            while not log.calls:
                await asyncio.sleep(0.02)
        running.cancel()


async def add_record(database: Database) -> None:
    row = {"conversation_id": "c", "refused": False, "erased": False, "payload": b"one"}
    await database.write(lambda connection: connection.execute(ADD_RECORDS, [row]))
