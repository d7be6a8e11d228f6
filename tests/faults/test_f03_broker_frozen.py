"""F3: the broker is frozen and thawed. A stock producer is wedged for ever by two minutes of it."""

import asyncio
import time

import pytest

from tests.faults.feedback import Clients, Stack, counted, replica_here, settled, until

THAW_SECONDS = 10.0
ACK_SECONDS = 0.05
WATCHDOG_SECONDS = 2.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [5, *(pytest.param(long, marks=pytest.mark.faults) for long in (40, 150))])
async def test_f03_a_broker_that_is_frozen_is_used_again_soon_after_the_thaw(
    feedback_stack: Stack, seconds: int
) -> None:
    failures, before = (counted(name, stream="feedback") for name in ("relay_failures_total", "relayed_total"))
    async with replica_here(feedback_stack, relay_watchdog_seconds=WATCHDOG_SECONDS) as stub:
        clients = Clients([stub])
        async with clients.sending():
            await until(lambda: counted("relayed_total", stream="feedback") > before, "the relay")
            feedback_stack.kafka.pause()
            await asyncio.sleep(seconds)
            acknowledged = len(clients.history.acknowledged)
            relayed, thaw = counted("relayed_total", stream="feedback"), time.monotonic()
            feedback_stack.kafka.resume()
            await until(lambda: counted("relayed_total", stream="feedback") > relayed, "an ack after the thaw")
            assert time.monotonic() - thaw <= THAW_SECONDS
        assert counted("relay_failures_total", stream="feedback") > failures, "the freeze was not felt"
        await settled(feedback_stack, clients.history)
    print(
        f"frozen {seconds} s: {acknowledged} acknowledged, ack p50 {clients.ack_percentile(0.5):.3f} s, p99 "
        f"{clients.ack_percentile(0.99):.3f} s"
    )
    assert clients.ack_percentile(0.5) <= ACK_SECONDS, "the callers must not feel it"
    assert feedback_stack.problems(clients.history) == []
