"""F21: the disk of the S3 store is full. The sink pauses, and goes on when there is room; nothing
is lost or twice.

Where no small disk can be made, a proxy stands for it, which answers as SeaweedFS did on the full
disk, with 500 InternalError; the record says which of the two it was.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback import (
    S3,
    Clients,
    counted,
    port_of,
    replica_here,
    settled,
    stack_on,
    until,
)
from tests.faults.small_disk import SmallDisk, disks_can_be_made, small_disk
from tests.servers import KafkaServer, PostgresServer, S3Server, running

DISK_MIB = 48


class FullProxy:
    """The stand-in: a proxy that answers as SeaweedFS does when its disk is full."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy

    def fill(self) -> None:
        self._proxy.faults = (HttpFault(Kind.STATUS, methods=frozenset({"PUT"}), status=500),)

    def make_room(self) -> None:
        self._proxy.faults = ()


@pytest.fixture
def place(s3: S3Server, tmp_path: Path) -> Iterator[tuple[SmallDisk | FullProxy, S3]]:
    """Real where this machine allows it."""
    data = tmp_path / "disk"
    data.mkdir()
    if disks_can_be_made(data):
        with small_disk(data, DISK_MIB) as disk:
            (tmp_path / "data").symlink_to(disk.folder)
            with running(S3Server(tmp_path)) as server:
                bucket = server.bucket()
                yield disk, S3(bucket, port_of(bucket))
    else:
        bucket = s3.bucket()
        with HttpProxy(port_of(bucket)) as proxy:
            yield FullProxy(proxy), S3(bucket, proxy.port)


@pytest.mark.long
async def test_f21_a_full_disk_pauses_the_sink_and_room_resumes_it(
    place: tuple[SmallDisk | FullProxy, S3],
    kafka: KafkaServer,
    postgres: PostgresServer,
    tmp_path: Path,
    record_property: Any,
) -> None:
    disk, s3_place = place
    with stack_on(tmp_path, kafka, postgres, s3_place) as stack:
        async with replica_here(stack) as stub:
            clients, failures = Clients([stub], pause_seconds=0, text_bytes=8_000), refused()
            async with clients.sending():
                await until(lambda: stack.committed(), "the sink")
                await asyncio.to_thread(disk.fill)
                await until(lambda: refused() > failures, "the full disk to be felt")
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
