"""F21: the disk of the S3 store is full. The sink pauses, and goes on when there is room; nothing is lost or twice.

Where no small disk can be made, a proxy stands for it, which answers as SeaweedFS did on the full disk, with 500
InternalError; the record says which of the two it was.
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from infra.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback import S3, Clients, counted, port_of, replica_here, settled, stack_on, until
from tests.faults.small_disk import MIB, SmallDisk, disks_can_be_made, small_disk
from tests.servers import KafkaServer, PostgresServer, S3Server, running

DISK_MIB, FILLER_MIB = 48, 24


class FullProxy:
    """The stand-in: a proxy that answers as SeaweedFS does when its disk is full."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy
        self._proxy.faults = (HttpFault(Kind.STATUS, methods=frozenset({"PUT"}), status=500),)

    @property
    def free_bytes(self) -> int:
        return 0 if self._proxy.counts[Kind.STATUS] >= 3 else MIB

    def make_room(self) -> None:
        self._proxy.faults = ()


def store_on_a_disk(stack: ExitStack, s3: S3Server, folder: Path) -> tuple[SmallDisk | FullProxy, S3]:
    """Real where this machine allows it."""
    data = folder / "disk"
    data.mkdir()
    if disks_can_be_made(data):
        disk = stack.enter_context(small_disk(data, DISK_MIB, FILLER_MIB))
        (folder / "data").symlink_to(disk.folder)
        bucket = stack.enter_context(running(S3Server(folder))).bucket()
        return disk, S3(bucket, port_of(bucket))
    bucket = s3.bucket()
    proxy = stack.enter_context(HttpProxy(port_of(bucket)))
    return FullProxy(proxy), S3(bucket, proxy.port)


@pytest.mark.faults
async def test_f21_a_full_disk_pauses_the_sink_and_room_resumes_it(
    s3: S3Server, kafka: KafkaServer, postgres: PostgresServer, tmp_path: Path, record_property: Any
) -> None:
    with ExitStack() as opened:
        disk, place = store_on_a_disk(opened, s3, tmp_path)
        stack = opened.enter_context(stack_on(tmp_path, kafka, postgres, place))
        async with replica_here(stack) as stub:
            clients, failures = Clients([stub], pause_seconds=0, text_bytes=8_000), refused()
            async with clients.sending():
                await until(lambda: disk.free_bytes < MIB and refused() > failures, "the disk to be full")
                await asyncio.sleep(2)
            waiting = stack.waiting()
            assert waiting > 0, "events wait for room"
            struck = refused() - failures
            disk.make_room()
            caught_up = await settled(stack, clients.history)
        assert clients.retries == 0
        assert stack.problems(clients.history) == []
    record_property("fired", int(struck))
    record_property("disk", type(disk).__name__)
    record_property("events_waiting", waiting)
    record_property("caught_up_seconds", round(caught_up, 1))


def refused() -> float:
    """Flushes that the store did not take."""
    return counted("sink_failures_total", stream="feedback", error="ObjectStoreError")
