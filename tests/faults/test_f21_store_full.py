"""F21: the disk of the S3 store is full.

The sink pauses and continues with free space, and no event is lost or duplicated. Without user
namespaces a proxy answers like SeaweedFS on a full disk, with 500 InternalError; the record tells
the two cases apart.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from tests.faults.feedback import (
    S3,
    Clients,
    local_replica,
    metric_value,
    port_of,
    stack_on,
    wait_until,
    wait_until_sunk,
)
from tests.faults.small_disk import SmallDisk, can_mount_disks, small_disk
from tests.servers import KafkaServer, PostgresServer, S3Server, running

DISK_MIB = 48


class FullProxy:
    """Substitute for a full disk: a proxy that answers like SeaweedFS on a full disk."""

    def __init__(self, proxy: HttpProxy) -> None:
        self._proxy = proxy

    def fill(self) -> None:
        self._proxy.faults = (HttpFault(Kind.STATUS, methods=frozenset({"PUT"}), status=500),)

    def free_space(self) -> None:
        self._proxy.faults = ()


@pytest.fixture
def store_setup(s3: S3Server, tmp_path: Path) -> Iterator[tuple[SmallDisk | FullProxy, S3]]:
    """Yield a real small disk if possible, else the proxy."""
    data = tmp_path / "disk"
    data.mkdir()
    if can_mount_disks(data):
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
async def test_f21_a_full_disk_pauses_the_sink_until_space_is_free(
    store_setup: tuple[SmallDisk | FullProxy, S3],
    kafka: KafkaServer,
    postgres: PostgresServer,
    tmp_path: Path,
    record_property: Any,
) -> None:
    disk, bucket_setup = store_setup
    with stack_on(tmp_path, kafka, postgres, bucket_setup) as stack:
        async with local_replica(stack) as stub:
            clients, failures = (
                Clients([stub], pause_seconds=0, text_bytes=8_000),
                rejected_flushes(),
            )
            async with clients.sending():
                await wait_until(lambda: stack.committed(), "the sink")
                await asyncio.to_thread(disk.fill)
                await wait_until(lambda: rejected_flushes() > failures, "the full disk to be felt")
                await asyncio.sleep(2)
            waiting = stack.waiting()
            assert waiting > 0, "events wait for room"
            struck = rejected_flushes() - failures
            disk.free_space()
            caught_up = await wait_until_sunk(stack, clients.history)
        assert clients.retries == 0
        assert stack.problems(clients.history) == []
    record_property("fired", int(struck))
    record_property("disk", type(disk).__name__)
    record_property("events_waiting", waiting)
    record_property("caught_up_seconds", round(caught_up, 1))


def rejected_flushes() -> float:
    """Return the number of flushes rejected by the store."""
    return metric_value("sink_failures_total", stream="feedback", error="ObjectStoreError")
