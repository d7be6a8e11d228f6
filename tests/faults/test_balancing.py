"""R7: calls go to all replicas in turn, to a new one within a connection's age, and to a dead one
no more after ten seconds.
"""

import asyncio
import time
from collections import Counter
from typing import Any

import grpc
import pytest
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from infra.faults.tcp import Fault, TcpFaults, TcpProxy
from services.chassis.channel import open_channel
from tests.faults.names import name_server
from tests.faults.replica import inner_replica

CALLS = 100
CONNECTION_AGE_SECONDS = 6.0
NOTICED_SECONDS = 10.0
# While it is in the line, each second call goes to it.
IN_A_ROW = 5


async def outcomes(
    channel: grpc.aio.Channel, calls: int = CALLS, seconds: float = 5
) -> Counter[str]:
    """Status codes of calls, one after another."""
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
    """All of the replicas have had a call."""
    async with asyncio.timeout(10):
        while not all(seen["ok"] for seen in calls):
            await outcomes(channel, 2)


async def test_a_list_of_addresses_is_served_in_turn_and_without_the_one_that_went() -> None:
    async with inner_replica() as one:
        async with (
            inner_replica() as two,
            open_channel(f"ipv4:{one.target},{two.target}") as channel,
        ):
            await ready(channel, one.calls, two.calls)
            before = one.calls["ok"], two.calls["ok"]
            assert await outcomes(channel) == {"OK": CALLS}
            assert one.calls["ok"] - before[0] == two.calls["ok"] - before[1] == CALLS / 2
        async with open_channel(f"ipv4:{one.target},{two.target}") as channel:
            assert await outcomes(channel) == {"OK": CALLS}


async def test_the_addresses_of_a_name_are_served_in_turn() -> None:
    async with (
        inner_replica(host="127.0.0.2") as one,
        inner_replica(host="127.0.0.3", port=one.port) as two,
        name_server(["127.0.0.2", "127.0.0.3"]) as names,
        open_channel(f"dns://127.0.0.1:{names.port}/replicas.test:{one.port}") as channel,
    ):
        await ready(channel, one.calls, two.calls)
        before = one.calls["ok"]
        assert await outcomes(channel) == {"OK": CALLS}
        assert one.calls["ok"] - before == CALLS / 2
        assert names.questions > 0


@pytest.mark.slow
async def test_a_new_replica_gets_its_share_within_a_connections_age() -> None:
    async with (
        inner_replica(host="127.0.0.2", connection_age_seconds=CONNECTION_AGE_SECONDS) as old,
        inner_replica(host="127.0.0.3", port=old.port) as new,
        name_server(["127.0.0.2"]) as names,
        open_channel(f"dns://127.0.0.1:{names.port}/replicas.test:{old.port}") as channel,
    ):
        await ready(channel, old.calls)
        names.addresses.append("127.0.0.3")
        began = time.monotonic()
        while new.calls["ok"] == 0:
            assert await outcomes(channel, 1) == {"OK": 1}
            # Ages differ by 10 %, and a name is asked for at most every five seconds.
            assert time.monotonic() - began <= 1.1 * CONNECTION_AGE_SECONDS + 5 + 1
            await asyncio.sleep(0.05)
        await outcomes(channel)
        assert new.calls["ok"] >= 0.5 / 2 * CALLS


@pytest.mark.slow
async def test_a_replica_that_died_without_a_word_gets_no_calls_after_ten_seconds(
    record_property: Any,
) -> None:
    async with inner_replica() as living, inner_replica() as dying:
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
