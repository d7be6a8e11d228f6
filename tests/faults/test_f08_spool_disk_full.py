"""F8: the spool's disk is full while Kafka stands still. Callers are told at once that nothing was
stored, and that is true.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.errors import from_rpc
from services.feedback.spool.folder import inspect
from tests.faults.feedback import Clients, Stack, record, replica_here, settled, until
from tests.faults.small_disk import MIB, SmallDisk, disks_can_be_made, small_disk
from tests.services.feedback.samples import correction

REFUSALS = 50


@contextmanager
def one_mebibyte(folder: Path) -> Iterator[SmallDisk | None]:
    """A disk of that size; None where none can be made: the spool's own limit stands for it."""
    folder.mkdir()
    if not disks_can_be_made(folder):
        yield None
        return
    with small_disk(folder, size_mib=1) as disk:
        yield disk


async def test_f08_a_spool_without_room_says_so_and_keeps_what_it_acknowledged(
    feedback_stack: Stack, tmp_path: Path, record_property: Any
) -> None:
    with one_mebibyte(tmp_path / "disk") as disk:
        spool = (disk.folder if disk else tmp_path) / "spool"
        settings: dict[str, object] = {} if disk else {"max_spool_bytes": MIB}
        settings |= {"spool_directory": spool, "relay_watchdog_seconds": 2}
        async with replica_here(feedback_stack, **settings) as stub:
            clients = Clients([stub], pause_seconds=0, text_bytes=8_000)
            feedback_stack.kafka.pause()
            async with clients.sending():
                await until(lambda: clients.retries, "the disk to be full")
                if disk:
                    # Six at once found no room; one alone would.
                    disk.fill()
                reasons, seconds = await refused(stub)
                (spooled,) = inspect(spool / "feedback")
                # What was acknowledged a moment ago may not be counted yet.
                acknowledged = len(clients.history.acknowledged)
                assert spooled.end_offset >= acknowledged
                feedback_stack.kafka.resume()
                thawed = await until(
                    lambda: len(clients.history.acknowledged) > acknowledged,
                    "an ack with room again",
                )
            await settled(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []
    assert reasons == {"FEEDBACK_SPOOL_DISK" if disk else "FEEDBACK_SPOOL_FULL"}
    record_property("fired", REFUSALS + clients.retries)
    record_property("disk", "a tmpfs" if disk else "the spool's own limit")
    record_property("acks_again_after_seconds", round(thawed, 1))
    record_property("refused_p50_ms", round(seconds[REFUSALS // 2] * 1000, 1))
    record_property("refused_p99_ms", round(seconds[-1] * 1000, 1))


async def refused(stub: Any) -> tuple[set[str], list[float]]:
    """Why, and how long each took, the quickest first. Nobody sends these again, so that one of
    them would be found.
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
