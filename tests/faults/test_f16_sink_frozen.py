"""F16: a replica is frozen during a flush until another replica owns its partitions.

It then continues as a zombie and is fenced.
"""

import signal
from typing import Any

import pytest

from tests.faults.broken_replica import PUTTING, REACHED
from tests.faults.feedback import (
    Clients,
    ReplicaProcess,
    Stack,
    local_replica,
    wait_until,
    wait_until_sunk,
)


@pytest.mark.slow
async def test_f16_a_zombie_is_fenced_and_commits_nothing(
    feedback_stack: Stack, record_property: Any
) -> None:
    zombie = ReplicaProcess(feedback_stack, broken_at=(PUTTING, 2))
    async with zombie.running() as stub:
        clients = Clients([stub])
        async with clients.sending():
            await wait_until((zombie.spool / REACHED).exists, "the zombie's put")
        # The gauge may be older than the last acknowledgement, so the topic itself is compared.
        sent = len(clients.history.acknowledged)
        await wait_until(lambda: sum(feedback_stack.ends().values()) >= sent, "the relay")
        zombie.signal(signal.SIGSTOP)
        async with local_replica(feedback_stack, 1) as other:
            # This takes longer than the group waits for the frozen replica.
            took_over = await wait_until_sunk(feedback_stack, clients.history)
            fenced = zombie_fenced(zombie)
            zombie.signal(signal.SIGCONT)
            await wait_until(lambda: fenced() >= 1, "the fence")
            record_property("fired", int(fenced()))
            record_property("taken_over_seconds", round(took_over, 1))
            clients.stubs = [other]
            await clients.send(5)
            await wait_until_sunk(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []


def zombie_fenced(zombie: ReplicaProcess):
    return lambda: zombie.metric_value("sink_failures_total", error="FencedError")
