"""R7: calls reach all replicas in turn.

A new replica gets calls within a connection's age, a dead one for ten seconds at most.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from infra.simulate.faults.tcp import Fault, TcpFaults, TcpProxy
from services.chassis.channel import open_channel
from tests.faults.names import name_server
from tests.faults.replica import in_process_replica

CALLS = 100
CONNECTION_AGE_SECONDS = 6.0
NOTICED_SECONDS = 10.0
# While the dead replica is in rotation, every second call goes to it.
IN_A_ROW = 5


async def outcomes(
    channel: grpc.aio.Channel, calls: int = CALLS, seconds: float = 5
) -> Counter[str]:
    """Return the status codes of sequential calls."""
    stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
    seen: Counter[str] = Counter()
    for _ in range(calls):
        try:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text="ok"), timeout=seconds)
            seen["OK"] += 1
        except grpc.aio.AioRpcError as error:
            seen[error.code().name] += 1
    return seen


async def ready(channel: grpc.aio.Channel, *calls: Counter[str]) -> None:
    """Wait until all replicas have received a call."""
    async with asyncio.timeout(10):
        while not all(seen["ok"] for seen in calls):
            await outcomes(channel, 2)


async def test_address_list_is_used_in_turn_without_the_stopped_one() -> None:
    async with in_process_replica() as one:
        async with (
            in_process_replica() as two,
            open_channel(f"ipv4:{one.target},{two.target}") as channel,
        ):
            await ready(channel, one.calls, two.calls)
            before = one.calls["ok"], two.calls["ok"]
            assert await outcomes(channel) == {"OK": CALLS}
            assert one.calls["ok"] - before[0] == two.calls["ok"] - before[1] == CALLS / 2
        async with open_channel(f"ipv4:{one.target},{two.target}") as channel:
            assert await outcomes(channel) == {"OK": CALLS}


async def test_addresses_of_a_name_are_used_in_turn() -> None:
    async with (
        in_process_replica(host="127.0.0.2") as one,
        in_process_replica(host="127.0.0.3", port=one.port) as two,
        name_server(["127.0.0.2", "127.0.0.3"]) as names,
        open_channel(f"dns://127.0.0.1:{names.port}/replicas.test:{one.port}") as channel,
    ):
        await ready(channel, one.calls, two.calls)
        before = one.calls["ok"]
        assert await outcomes(channel) == {"OK": CALLS}
        assert one.calls["ok"] - before == CALLS / 2
        assert names.questions > 0


@pytest.mark.slow
async def test_new_replica_gets_its_share_within_a_connections_age() -> None:
    async with (
        in_process_replica(host="127.0.0.2", connection_age_seconds=CONNECTION_AGE_SECONDS) as old,
        in_process_replica(host="127.0.0.3", port=old.port) as new,
        name_server(["127.0.0.2"]) as names,
        open_channel(f"dns://127.0.0.1:{names.port}/replicas.test:{old.port}") as channel,
    ):
        await ready(channel, old.calls)
        names.addresses.append("127.0.0.3")
        began = time.monotonic()
        while new.calls["ok"] == 0:
            assert await outcomes(channel, 1) == {"OK": 1}
            # Connection ages differ by 10 %, and names are resolved at most every five seconds.
            assert time.monotonic() - began <= 1.1 * CONNECTION_AGE_SECONDS + 5 + 1
            await asyncio.sleep(0.05)
        await outcomes(channel)
        assert new.calls["ok"] >= 0.5 / 2 * CALLS


@pytest.mark.slow
async def test_silently_dead_replica_gets_no_calls_after_ten_seconds(
    record_property: Any,
) -> None:
    async with in_process_replica() as living, in_process_replica() as dying:
        with TcpProxy(dying.port) as cut:
            async with open_channel(f"ipv4:{living.target},127.0.0.1:{cut.port}") as channel:
                await ready(channel, living.calls, dying.calls)
                cut.faults, parted = TcpFaults(silent=True), time.monotonic()
                failed, well = Counter[str](), 0
                while well < IN_A_ROW:
                    assert time.monotonic() - parted < NOTICED_SECONDS
                    seen = await outcomes(channel, 2, seconds=1)
                    failed, well = failed + seen, well + 1 if seen == {"OK": 2} else 0
                    await asyncio.sleep(0.05)
                record_property("fired", cut.counts[Fault.SILENCED])
                record_property(
                    "dead_replica_left_out_after_seconds", round(time.monotonic() - parted, 1)
                )
                assert failed["DEADLINE_EXCEEDED"] > 0
                assert cut.counts[Fault.SILENCED] > 0
                assert await outcomes(channel, seconds=1) == {"OK": CALLS}
