"""F18: the S3 store is busy, throttles, is slow, truncates bodies, or hangs.

Acknowledgements continue, Parquet is delayed, and no event is lost or duplicated.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance
from tests.faults.feedback import (
    S3,
    Clients,
    ReplicaProcess,
    Stack,
    local_replica,
    port_of,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.servers import KafkaServer, PostgresServer, S3Server

FAULTS = {
    "busy": HttpFault(Kind.STATUS, status=503),
    "throttled": HttpFault(Kind.STATUS, status=429, retry_after_seconds=1),
    "late": HttpFault(Kind.SLOW, seconds=0.8),
    "bodies cut": HttpFault(Kind.REQUEST_RESET, body_bytes=500),
    "answers lost": HttpFault(Kind.ANSWER_LOST, Chance(0.7, seed=18)),
    "hanging": HttpFault(Kind.HANG),
}
# These faults delay requests; the others block them.
DELAYING_FAULTS = ("late", "answers lost")
MIB = 1 << 20
# Events of 8 kB each, six times the memory limit of the service.
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
async def test_f18_store_faults_delay_parquet_and_lose_no_event(
    stack: Stack, proxy: HttpProxy, record_property: Any
) -> None:
    """Inject one fault after another; the first is active at the start of the service."""
    proxy.faults = (FAULTS["busy"],)
    async with local_replica(stack) as stub:
        await wait_until(lambda: proxy.counts[Kind.STATUS], "the self-test to meet the fault")
        clients = Clients([stub])
        for fault_name, fault in FAULTS.items():
            sunk, struck = sum(stack.committed().values()), proxy.counts[fault.kind]
            acknowledged = len(clients.history.acknowledged)
            proxy.faults = (fault,)
            async with clients.sending():
                # Acknowledgements do not wait for the store.
                await wait_until(
                    lambda n=acknowledged: len(clients.history.acknowledged) > n + 50, "acks"
                )
                await wait_until(
                    lambda fault=fault, n=struck: proxy.counts[fault.kind] > n, fault_name
                )
            if fault_name not in DELAYING_FAULTS:
                assert sum(stack.committed().values()) == sunk, "nothing can have been committed"
            proxy.faults = ()
            await wait_until_sunk(stack, clients.history)
            assert stack.problems(clients.history) == []
    assert clients.retries == 0, "no caller may feel it"
    record_property("fired", sum(proxy.counts[kind] for kind in Kind))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault_name", FAULTS)
async def test_f18_memory_is_bounded_during_half_a_minute_of_faults(
    stack: Stack, proxy: HttpProxy, record_property: Any, fault_name: str
) -> None:
    """The backlog stays in the topic, many times larger than the memory limit of the service."""
    replica, kind = ReplicaProcess(stack), FAULTS[fault_name].kind
    async with replica.running(consumer_bytes=4 * MIB) as stub:
        clients = Clients([stub], pause_seconds=0, text_bytes=8_000)
        await clients.send(50)
        await wait_until_sunk(stack, clients.history)
        before = replica.peak_resident_bytes()
        proxy.faults = (FAULTS[fault_name],)
        began = time.monotonic()
        async with clients.sending():
            await asyncio.sleep(30)
            await wait_until(
                lambda: len(clients.history.acknowledged) >= BACKLOG_EVENTS,
                "a backlog",
                seconds=240,
            )
        seconds, backlog = time.monotonic() - began, stack.waiting()
        proxy.faults = ()
        catch_up = await wait_until_sunk(stack, clients.history)
        memory_growth = replica.peak_resident_bytes() - before
    for name, value in {
        "fired": proxy.counts[kind],
        "acknowledged": len(clients.history.acknowledged),
        "acks_a_second": round(len(clients.history.acknowledged) / seconds),
        "backlog_events": backlog,
        "catch_up_seconds": round(catch_up, 1),
        "memory_grown_MiB": round(memory_growth / MIB, 1),
    }.items():
        record_property(name, value)
    assert proxy.counts[kind]
    assert clients.retries == 0
    assert stack.problems(clients.history) == []
    assert memory_growth < 64 * MIB
