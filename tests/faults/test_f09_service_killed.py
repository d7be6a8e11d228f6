"""F9: the service is killed between sync and reply, or between Kafka's acknowledgement and trim."""

import contextlib
import signal
from typing import Any

import grpc
import pytest

from services.feedback.spool.spool import inspect
from tests.faults.broken_replica import APPENDED, PUBLISHED
from tests.faults.feedback import Clients, ReplicaProcess, Stack, record, wait_until_sunk
from tests.services.feedback.samples import thumb


@pytest.mark.slow
@pytest.mark.parametrize("point", [pytest.param(APPENDED, marks=pytest.mark.long), PUBLISHED])
async def test_f09_a_service_killed_around_an_acknowledgement_keeps_each_event_once(
    feedback_stack: Stack, point: str, record_property: Any
) -> None:
    event = thumb("a", message="m")
    broken = ReplicaProcess(feedback_stack, broken_at=(point, 1))
    async with broken.running() as stub:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await record(stub, event)
        assert await broken.ended() == -signal.SIGKILL
    (spooled,) = inspect(broken.spool / "feedback")
    assert (spooled.start_offset, spooled.end_offset) == (0, 1), "it must be in the spool"
    assert sum(feedback_stack.ends().values()) == (1 if point == PUBLISHED else 0)

    whole = ReplicaProcess(feedback_stack)
    async with whole.running() as stub:
        clients = Clients([stub])
        await record(stub, event)
        clients.history.sent["m"], clients.history.acknowledged = [event.event_id], {event.event_id}
        await clients.send(5)
        await wait_until_sunk(feedback_stack, clients.history)
        assert await whole.stop() == 0
    copies = sum(feedback_stack.ends().values()) - len(feedback_stack.rows())
    assert copies >= (1 if point == PUBLISHED else 0), "what was relayed before the kill goes again"
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", 1)
    record_property("copies_in_the_topic", copies)
