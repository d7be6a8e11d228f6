"""F8: the spool's disk is full while Kafka is frozen.

Callers get an immediate rejection, and no rejected event was stored.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.errors import from_rpc
from services.feedback.spool.spool import inspect
from tests.faults.feedback import Clients, Stack, local_replica, record, wait_until, wait_until_sunk
from tests.faults.small_disk import MIB, SmallDisk, can_mount_disks, small_disk
from tests.services.feedback.samples import correction

REFUSALS = 50


@contextmanager
def small_spool_disk(folder: Path) -> Iterator[SmallDisk | None]:
    """Yield a disk of 1 MiB, or None without user namespaces; the spool's own limit then serves."""
    folder.mkdir()
    if not can_mount_disks(folder):
        yield None
        return
    with small_disk(folder, size_mib=1) as disk:
        yield disk


async def test_f08_a_full_spool_rejects_events_and_keeps_acknowledged_ones(
    feedback_stack: Stack, tmp_path: Path, record_property: Any
) -> None:
    with small_spool_disk(tmp_path / "disk") as disk:
        spool = (disk.folder if disk else tmp_path) / "spool"
        settings: dict[str, object] = {} if disk else {"max_spool_bytes": MIB}
        settings |= {"spool_directory": spool, "relay_watchdog_seconds": 2}
        async with local_replica(feedback_stack, **settings) as stub:
            clients = Clients([stub], pause_seconds=0, text_bytes=8_000)
            feedback_stack.kafka.pause()
            async with clients.sending():
                await wait_until(lambda: clients.retries, "the disk to be full")
                if disk:
                    # Six concurrent events found no space; a single smaller event might.
                    disk.fill()
                reasons, seconds = await rejections(stub)
                (spooled,) = inspect(spool / "feedback")
                # The newest acknowledgements may not be counted yet.
                acknowledged = len(clients.history.acknowledged)
                assert spooled.end_offset >= acknowledged
                feedback_stack.kafka.resume()
                thawed = await wait_until(
                    lambda: len(clients.history.acknowledged) > acknowledged,
                    "an ack with room again",
                )
            await wait_until_sunk(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []
    assert reasons == {"FEEDBACK_SPOOL_DISK" if disk else "FEEDBACK_SPOOL_FULL"}
    record_property("fired", REFUSALS + clients.retries)
    record_property("disk", "a tmpfs" if disk else "the spool's own limit")
    record_property("acks_again_after_seconds", round(thawed, 1))
    record_property("refused_p50_ms", round(seconds[REFUSALS // 2] * 1000, 1))
    record_property("refused_p99_ms", round(seconds[-1] * 1000, 1))


async def rejections(stub: Any) -> tuple[set[str], list[float]]:
    """Return the reasons and sorted durations of rejections.

    These events are never resent, so a stored one would be noticed.
    """
    reasons, seconds = set(), []
    for number in range(REFUSALS):
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await record(stub, correction(f"refused-{number}", "x" * 8_192, message="refused"))
        seconds.append(time.monotonic() - began)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        reasons.add(from_rpc(caught.value, "feedback").reason)
    return reasons, sorted(seconds)
