"""Schedule of compaction: one replica per pass, retries, and an orderly stop."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from prometheus_client import REGISTRY
from sqlalchemy import Engine

from services.feedback.compaction.compaction import CompactionStep
from services.feedback.compaction.schedule import CompactionSchedule
from services.feedback.events import Stream
from services.feedback.lake.object_store import Directory, ObjectStoreError
from tests.services.feedback.compacted import CompactedLog

PATIENCE_SECONDS = 30


def counted(metric: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"thumbwheel_feedback_{metric}", labels) or 0.0


def shown(stream: Stream) -> float:
    return counted("compaction_time_seconds", stream=stream)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


def is_covered(log: CompactedLog) -> bool:
    return all(item.is_compacted for item in log.readable_segments())


async def test_one_of_several_replicas_runs_a_due_pass(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    log = CompactedLog(sqlite_engine, Directory(tmp_path / "objects"))
    log.thumbs(2)
    listed: list[CompactionStep] = []
    schedules = [
        CompactionSchedule(log.compaction(at=listed.append), 3_600, poll_seconds=0.02)
        for _ in range(2)
    ]
    running = [asyncio.create_task(schedule.run()) for schedule in schedules]
    passed_us = log.now_us
    await until(
        lambda: is_covered(log) and all(shown(stream) == passed_us / 1e6 for stream in Stream)
    )
    log.pass_seconds(3_599)
    log.thumbs(1)
    await asyncio.sleep(0.1)
    assert not is_covered(log), "not yet due"
    assert shown(log.stream) == passed_us / 1e6
    assert counted("compaction_period_seconds") == 3_600
    log.pass_seconds(1)
    await until(lambda: is_covered(log))
    for schedule in schedules:
        schedule.stop()
    await asyncio.gather(*running)
    assert listed.count(CompactionStep.PUBLISHED) == 2


async def test_a_failed_pass_is_counted_and_retried(sqlite_engine: Engine, tmp_path: Path) -> None:
    class Away(Directory):
        away = True

        def get(self, key: str) -> bytes:
            if self.away:
                raise ObjectStoreError("away")
            return super().get(key)

    store = Away(tmp_path / "objects")
    log = CompactedLog(sqlite_engine, store)
    log.thumbs(1)
    before = counted("compaction_failures_total", stream="feedback", error="ObjectStoreError")
    schedule = CompactionSchedule(log.compaction(), 3_600, poll_seconds=0.02)
    running = asyncio.create_task(schedule.run())
    await until(
        lambda: (
            counted("compaction_failures_total", stream="feedback", error="ObjectStoreError")
            > before + 1
        )
    )
    store.away = False
    await until(lambda: is_covered(log))
    schedule.stop()
    await running


async def test_stopping_waits_only_for_the_current_step(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    log = CompactedLog(sqlite_engine, Directory(tmp_path / "objects"))
    log.thumbs(1)
    reached, on_object, steps = threading.Event(), threading.Event(), list[CompactionStep]()

    def at(step: CompactionStep) -> None:
        steps.append(step)
        if step is CompactionStep.READ:
            reached.set()
            on_object.wait(PATIENCE_SECONDS)

    schedule = CompactionSchedule(log.compaction(at=at), 3_600, poll_seconds=0.02)
    running = asyncio.create_task(schedule.run())
    await asyncio.to_thread(reached.wait, PATIENCE_SECONDS)
    schedule.stop()
    await asyncio.sleep(0.05)
    assert not running.done()
    on_object.set()
    await running
    assert steps == [CompactionStep.LISTED, CompactionStep.READ, CompactionStep.ENCODED]
    assert log.compaction().run(log.stream), "the lease was given back"
