"""Schedule of flushes, and failures without loss."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from services.feedback.lake.ledger import Segment
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.sink_loop import SinkLoop
from services.feedback.spool.log import OffsetOutOfRangeError
from services.feedback.spool.spool import Spool
from services.feedback.store.database import FencedError, LedgerUnavailableError
from tests.services.feedback.samples import entry

ROOM = 1 << 20


class FakeSink:
    """Fake sink that fails on demand, then commits all records of the spool."""

    def __init__(self, spool: Spool, *failures: Exception) -> None:
        self._spool, self._failures = spool, list(failures)
        self.position, self.flushes, self.assigns, self.checks = 0, 0, 0, 0
        self.is_ledger_behind = False

    def assign(self) -> None:
        self.assigns += 1

    def check(self) -> None:
        self.checks += 1
        if self.is_ledger_behind:
            self.is_ledger_behind = False
            raise FencedError("behind")

    def flush(self) -> Segment | None:
        self.flushes += 1
        if self._failures:
            raise self._failures.pop(0)
        start, self.position = self.position, self._spool.end_offset
        rows = self.position - start
        return Segment("feedback", "t", 0, 1, start, self.position, "key", "hash", rows, 0, 0, 1)


@pytest.fixture
def spool(tmp_path: Path):
    spool = Spool(tmp_path / "spool", max_bytes=ROOM, segment_bytes=ROOM)
    yield spool
    spool.close()


def drain_of(
    spool: Spool, sink: FakeSink, committed: list[int], rows: int = 100, seconds: float = 0.01
) -> SinkLoop:
    return SinkLoop("feedback", spool, sink, rows, seconds, committed.append)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_event_is_sunk_after_the_maximum_wait(spool: Spool) -> None:
    sink, committed = FakeSink(spool), []
    drain = drain_of(spool, sink, committed)
    running = asyncio.ensure_future(drain.run())
    spool.append([entry("a")])
    await until(lambda: committed == [1])
    drain.stop()
    await running


async def test_an_idle_partition_notices_that_the_ledger_has_moved_back(spool: Spool) -> None:
    sink, committed = FakeSink(spool), []
    loop = SinkLoop("feedback", spool, sink, 100, 0.01, committed.append, check_seconds=0.01)
    running = asyncio.ensure_future(loop.run())
    spool.append([entry("a")])
    await until(lambda: 1 in committed)
    await until(lambda: sink.checks > 1)
    assert sink.assigns == 0, "a partition at the ledger's end keeps its lease"
    sink.is_ledger_behind = True
    await until(lambda: sink.assigns == 1)
    loop.stop()
    await running


async def test_enough_events_are_sunk_without_waiting(spool: Spool) -> None:
    sink, committed = FakeSink(spool), []
    drain = drain_of(spool, sink, committed, rows=2, seconds=10_000)
    spool.append([entry("a")])
    running = asyncio.ensure_future(drain.run())
    await asyncio.sleep(0.3)
    assert sink.flushes == 0
    spool.append([entry("b")])
    await until(lambda: committed == [2])
    drain.stop()
    await running


@pytest.mark.parametrize(
    "failure",
    [FencedError("x"), LedgerUnavailableError("x"), ObjectStoreError("x"), OSError(28, "x")],
)
async def test_after_a_failure_the_sink_reassigns_and_repeats_the_flush(
    spool: Spool, failure: Exception
) -> None:
    sink, committed = FakeSink(spool, failure), []
    drain = drain_of(spool, sink, committed)
    spool.append([entry("a")])
    running = asyncio.ensure_future(drain.run())
    await until(lambda: sink.position == 1)
    drain.stop()
    await running
    assert (sink.assigns, sink.flushes) == (1, 2)
    assert committed == [0, 1]


async def test_a_log_inconsistent_with_the_ledger_ends_the_run(spool: Spool) -> None:
    drain = drain_of(spool, FakeSink(spool, OffsetOutOfRangeError("gone")), [])
    spool.append([entry("a")])
    with pytest.raises(OffsetOutOfRangeError):
        await drain.run()


async def test_finishing_sinks_waiting_events_until_a_failure(spool: Spool) -> None:
    spool.append([entry("a")])
    sink, committed = FakeSink(spool), []
    await drain_of(spool, sink, committed).finish()
    assert committed == [1]
    broken = FakeSink(spool, ObjectStoreError("away"), ObjectStoreError("away"))
    await drain_of(spool, broken, []).finish()
    assert broken.flushes == 1
