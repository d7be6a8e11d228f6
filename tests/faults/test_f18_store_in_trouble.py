"""F18: the S3 store is busy, throttles, is slow, cuts bodies, hangs. Acks go on, Parquet waits, and
nothing is lost or twice.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.faults.chance import Chance
from infra.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback import (
    S3,
    Clients,
    ReplicaProcess,
    Stack,
    port_of,
    replica_here,
    settled,
    stack_on,
    until,
)
from tests.servers import KafkaServer, PostgresServer, S3Server

TROUBLE = {
    "busy": HttpFault(Kind.STATUS, status=503),
    "throttled": HttpFault(Kind.STATUS, status=429, retry_after_seconds=1),
    "late": HttpFault(Kind.SLOW, seconds=0.8),
    "bodies cut": HttpFault(Kind.REQUEST_RESET, body_bytes=500),
    "answers lost": HttpFault(Kind.ANSWER_LOST, Chance(0.7, seed=18)),
    "hanging": HttpFault(Kind.HANG),
}
# What these delay; the others let nothing through.
LETS_THROUGH = ("late", "answers lost")
MIB = 1 << 20
# Of 8 kB each: six times what the service may hold.
BACKLOG_EVENTS = 3_000


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[HttpProxy]:
    with HttpProxy(port_of(s3.bucket())) as proxy:
        yield proxy


@pytest.fixture
def stack(
    kafka: KafkaServer, postgres: PostgresServer, s3: S3Server, proxy: HttpProxy, tmp_path: Path
) -> Iterator[Stack]:
    with stack_on(tmp_path, kafka, postgres, S3(s3.bucket(), proxy.port)) as stack:
        yield stack


@pytest.mark.long
@pytest.mark.slow
async def test_f18_trouble_in_the_store_delays_parquet_and_loses_nothing(
    stack: Stack, proxy: HttpProxy, record_property: Any
) -> None:
    """One kind after another; the first is there when the service starts."""
    proxy.faults = (TROUBLE["busy"],)
    async with replica_here(stack) as stub:
        await until(lambda: proxy.counts[Kind.STATUS], "the self-test to meet the fault")
        clients = Clients([stub])
        for trouble, fault in TROUBLE.items():
            sunk, struck = sum(stack.committed().values()), proxy.counts[fault.kind]
            acknowledged = len(clients.history.acknowledged)
            proxy.faults = (fault,)
            async with clients.sending():
                # The ack does not wait for the store.
                await until(
                    lambda n=acknowledged: len(clients.history.acknowledged) > n + 50, "acks"
                )
                await until(lambda fault=fault, n=struck: proxy.counts[fault.kind] > n, trouble)
            if trouble not in LETS_THROUGH:
                assert sum(stack.committed().values()) == sunk, "nothing can have been committed"
            proxy.faults = ()
            await settled(stack, clients.history)
            assert stack.problems(clients.history) == []
    assert clients.retries == 0, "no caller may feel it"
    record_property("fired", sum(proxy.counts[kind] for kind in Kind))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", TROUBLE)
async def test_f18_half_a_minute_of_trouble_keeps_memory_bounded(
    stack: Stack, proxy: HttpProxy, record_property: Any, trouble: str
) -> None:
    """The backlog is many times what the service may hold: it lies in the topic."""
    replica, kind = ReplicaProcess(stack), TROUBLE[trouble].kind
    async with replica.running(consumer_bytes=4 * MIB) as stub:
        clients = Clients([stub], pause_seconds=0, text_bytes=8_000)
        await clients.send(50)
        await settled(stack, clients.history)
        before = replica.most_resident_bytes()
        proxy.faults = (TROUBLE[trouble],)
        began = time.monotonic()
        async with clients.sending():
            await asyncio.sleep(30)
            await until(
                lambda: len(clients.history.acknowledged) >= BACKLOG_EVENTS,
                "a backlog",
                seconds=240,
            )
        seconds, backlog = time.monotonic() - began, stack.waiting()
        proxy.faults = ()
        catch_up = await settled(stack, clients.history)
        grown = replica.most_resident_bytes() - before
    for name, value in {
        "fired": proxy.counts[kind],
        "acknowledged": len(clients.history.acknowledged),
        "acks_a_second": round(len(clients.history.acknowledged) / seconds),
        "backlog_events": backlog,
        "catch_up_seconds": round(catch_up, 1),
        "memory_grown_MiB": round(grown / MIB, 1),
    }.items():
        record_property(name, value)
    assert proxy.counts[kind]
    assert clients.retries == 0
    assert stack.problems(clients.history) == []
    assert grown < 64 * MIB
