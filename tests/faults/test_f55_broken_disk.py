"""F55: the disk of the write-ahead log fails with EIO while the service runs.

The kernel fails each fdatasync of the writing thread. Nothing is acknowledged from then on, until
the process starts again and reads the log.
"""

from typing import Any

import pytest

from services.feedback.spool.spool import BROKEN
from tests.faults.broken_replica import BROKEN_DISK
from tests.faults.feedback import (
    CONVERSATIONS,
    Clients,
    ReplicaProcess,
    Stack,
    wait_until,
    wait_until_sunk,
)

SYNCS_BEFORE = 20


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_f55_a_broken_disk_acknowledges_nothing_until_the_next_start(
    feedback_stack: Stack, record_property: Any
) -> None:
    broken = ReplicaProcess(feedback_stack, broken_at=(BROKEN_DISK, SYNCS_BEFORE))
    whole = ReplicaProcess(feedback_stack)
    async with broken.running() as stub:
        clients = Clients([stub])
        async with clients.sending():
            await wait_until(lambda: clients.refusals[BROKEN] >= CONVERSATIONS, "the disk to break")
            acknowledged = set(clients.history.acknowledged)
            refused = clients.refusals[BROKEN]
            await wait_until(
                lambda: clients.refusals[BROKEN] >= refused + 10 * CONVERSATIONS, "more refusals"
            )
            assert clients.history.acknowledged == acknowledged, "a broken disk acknowledged"
            assert await broken.stop() == 0, "all acknowledged events are in Kafka"
            async with whole.running() as again:
                clients.stubs = [again]
                await wait_until(
                    lambda: len(clients.history.acknowledged) > len(acknowledged) + CONVERSATIONS,
                    "acknowledgements after the restart",
                )
                clients.stop()
                await wait_until_sunk(feedback_stack, clients.history)
    assert len(acknowledged) >= SYNCS_BEFORE
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", clients.refusals[BROKEN])
    record_property("acknowledged_before", len(acknowledged))
