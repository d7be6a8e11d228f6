"""F15: the sink is killed after the read, during the put, and around the commit, and resumes."""

import asyncio
import signal
from typing import Any

import pytest

from services.feedback.sink import SinkStep
from tests.faults.feedback import Clients, ReplicaProcess, Stack, wait_until_sunk

RECOVERY_SECONDS = 15.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "steps",
    [[SinkStep.COMMITTED], pytest.param(list(SinkStep) * 2, marks=pytest.mark.long)],
    ids=["after the commit", "everywhere"],
)
async def test_f15_a_killed_sink_loses_and_repeats_no_event(
    feedback_stack: Stack, steps: list[SinkStep], record_property: Any
) -> None:
    recovered = []
    clients = Clients([])
    for time, step in enumerate(steps):
        broken = ReplicaProcess(feedback_stack, broken_at=(step, 1 + time % 3))
        async with broken.running() as stub:
            clients.stubs = [stub]
            sending = asyncio.ensure_future(clients.send_until_stopped())
            assert await broken.ended() == -signal.SIGKILL
            clients.stop()
            async with ReplicaProcess(feedback_stack).running() as again:
                clients.stubs = [again]
                await sending
                took = await wait_until_sunk(feedback_stack, clients.history)
        recovered.append(round(took, 1))
        assert took <= RECOVERY_SECONDS
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", len(steps))
    record_property("recovered_seconds", recovered)
