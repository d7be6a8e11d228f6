"""F16: a replica is frozen in the middle of a flush until another one has its partitions, then goes
on as a zombie: it is fenced.
"""

import signal
from typing import Any

import pytest

from tests.faults.broken_replica import PUTTING, REACHED
from tests.faults.feedback import Clients, ReplicaProcess, Stack, replica_here, settled, until


@pytest.mark.slow
async def test_f16_a_zombie_is_fenced_and_commits_nothing(
    feedback_stack: Stack, record_property: Any
) -> None:
    zombie = ReplicaProcess(feedback_stack, broken_at=(PUTTING, 2))
    async with zombie.running() as stub:
        clients = Clients([stub])
        async with clients.sending():
            await until((zombie.spool / REACHED).exists, "the zombie's put")
        # The gauge may be older than the last ack: what counts is what lies in the topic.
        sent = len(clients.history.acknowledged)
        await until(lambda: sum(feedback_stack.ends().values()) >= sent, "the relay")
        zombie.signal(signal.SIGSTOP)
        async with replica_here(feedback_stack, 1) as other:
            # Longer than the group waits for the frozen one.
            took_over = await settled(feedback_stack, clients.history)
            fenced = zombie_fenced(zombie)
            zombie.signal(signal.SIGCONT)
            await until(lambda: fenced() >= 1, "the fence")
            record_property("fired", int(fenced()))
            record_property("taken_over_seconds", round(took_over, 1))
            clients.stubs = [other]
            await clients.send(5)
            await settled(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []


def zombie_fenced(zombie: ReplicaProcess):
    return lambda: zombie.counted("sink_failures_total", error="FencedError")
