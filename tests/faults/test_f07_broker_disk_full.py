"""F7: the broker's disk is full and the broker fails.

Acknowledgements continue from the spool; with free space all events reach the log once.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.feedback import (
    Clients,
    Stack,
    local_replica,
    metric_value,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.faults.small_disk import SmallDisk, can_mount_disks, small_disk
from tests.servers import KafkaServer, PostgresServer, running

DISK_MIB = 64


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    assert can_mount_disks(folder), (
        "this kernel lets nobody but root mount a tmpfs: nothing can be shown here"
    )
    with small_disk(folder, DISK_MIB) as disk:
        yield disk


@pytest.fixture
def stack(disk: SmallDisk, tmp_path: Path, postgres: PostgresServer) -> Iterator[Stack]:
    with (
        running(KafkaServer(disk.folder / "kafka", brokers=1)) as kafka,
        stack_on(tmp_path, kafka, postgres) as stack,
    ):
        yield stack


@pytest.mark.long
async def test_f07_a_full_broker_acknowledges_nothing_and_recovers_with_space(
    disk: SmallDisk, stack: Stack, record_property: Any
) -> None:
    async with local_replica(stack, relay_watchdog_seconds=2) as stub:
        clients = Clients([stub], pause_seconds=0.005, text_bytes=2_000)
        await clients.send(20)
        await wait_until_sunk(stack, clients.history)
        failures = relay_failures()
        async with clients.sending():
            await asyncio.to_thread(disk.fill)
            assert disk.free_bytes == 0
            await wait_until(lambda: relay_failures() > failures, "the full disk to be felt")
            await asyncio.sleep(5)
        struck, lives = relay_failures() - failures, stack.kafka.processes[0].is_running
        waiting = metric_value("relay_lag_events", stream="feedback")
        assert waiting > 0, "it had room after all"
        disk.free_space()
        if lives:
            # The broker has taken its folder offline; a supervisor would restart such a broker.
            await asyncio.to_thread(stack.kafka.kill)
        await asyncio.to_thread(stack.kafka.start)
        drained = await wait_until_sunk(stack, clients.history)
    assert clients.retries == 0
    assert stack.problems(clients.history) == []
    record_property("fired", int(struck))
    record_property("broker", "lived without its folder" if lives else "died")
    record_property("acknowledged", len(clients.history.acknowledged))
    record_property("waited_in_the_spool", int(waiting))
    record_property("drained_seconds", round(drained, 1))


def relay_failures() -> float:
    return metric_value("relay_failures_total", stream="feedback")
