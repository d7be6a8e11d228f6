"""F52: Postgres fails over to a copy without the last transactions.

The sink reads the missing part from Kafka again, and the order of acceptance continues, so that the
last thumb of a user stays the current one.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.feedback import (
    Clients,
    ReplicaProcess,
    Stack,
    current,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.faults.older_copy import OlderCopy
from tests.servers import KafkaServer, PostgresServer, running
from tests.services.feedback.samples import thumb


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresServer]:
    with running(PostgresServer(tmp_path / "postgres")) as server:
        yield server


@pytest.fixture
def stack(tmp_path: Path, kafka: KafkaServer, own_postgres: PostgresServer) -> Iterator[Stack]:
    with stack_on(tmp_path, kafka, own_postgres) as stack:
        yield stack


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_f52_a_database_without_its_last_transactions_loses_no_event_and_no_order(
    stack: Stack, own_postgres: PostgresServer, tmp_path: Path, record_property: Any
) -> None:
    older = OlderCopy(own_postgres, tmp_path / "postgres" / "data")
    here, there = ReplicaProcess(stack, 0), ReplicaProcess(stack, 1)
    async with here.running() as first, there.running() as second:
        clients = Clients([first, second])
        await clients.send(10)
        await wait_until_sunk(stack, clients.history)
        await asyncio.to_thread(older.take)
        before = stack.committed()
        await clients.send(30)
        await acknowledge(clients, "older", up=True)
        await wait_until_sunk(stack, clients.history)
        lost = sum(stack.committed().values()) - sum(before.values())
        await asyncio.to_thread(older.fail_over)
        assert stack.committed() == before, "the copy must lack the last transactions"
        clients.stubs.reverse()
        await acknowledge(clients, "newer", up=False)
        assert await current(clients.stubs[0], "order") == {"order": False}
        # Without further events in most partitions: the sinks must notice by themselves.
        seconds = await wait_until(lambda: not stack.waiting(), "the sinks to read again")
        assert await current(clients.stubs[0], "order") == {"order": False}
        # These include random thumbs on the message `order`.
        await clients.send(5)
        await wait_until_sunk(stack, clients.history)
    assert stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("events_lost_by_the_database", lost)
    record_property("in_the_ledger_again_after_seconds", round(seconds, 1))


async def acknowledge(clients: Clients, request: str, up: bool) -> None:
    """Send a thumb on the message `order` until the first replica acknowledges it."""
    event = thumb(request, up, message="order")
    await clients.send_event(event)
    clients.history.sent.setdefault("order", []).append(event.event_id)
    clients.history.acknowledged.add(event.event_id)
