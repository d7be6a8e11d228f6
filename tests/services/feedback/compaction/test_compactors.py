"""Compaction leases: a single owner until expiry, and fencing by epoch."""

import re
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback.compaction.compactors import Compactors, Replacement
from services.feedback.lake.object_store import Directory
from services.feedback.store.database import FencedError, database_clock_us
from tests.services.feedback.compacted import CompactedLog
from tests.support.errors import refused

STREAM = "feedback"


class Clock:
    """Database clock set by the test."""

    now_us = 1_000_000_000_000

    def __call__(self, _connection: object) -> int:
        return self.now_us

    def pass_seconds(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def compactors(engine: Engine, clock: Clock) -> Compactors:
    return Compactors(engine, clock)


def test_a_lease_has_one_owner_until_expiry_and_can_be_renewed(
    compactors: Compactors, clock: Clock
) -> None:
    first = compactors.acquire(STREAM, 60, 0)
    assert first
    assert compactors.acquire(STREAM, 60, 0) is None
    assert compactors.acquire("turns", 60, 0), "each stream has its own"
    clock.pass_seconds(59)
    compactors.renew(first, 60)
    clock.pass_seconds(59)
    assert compactors.acquire(STREAM, 60, 0) is None
    clock.pass_seconds(1)
    second = compactors.acquire(STREAM, 60, 0)
    assert second
    assert second.epoch == first.epoch + 1


def test_a_released_lease_is_free_and_the_next_pass_is_due_a_period_later(
    compactors: Compactors, clock: Clock
) -> None:
    for whole, due in ((False, True), (True, False)):
        lease = compactors.acquire(STREAM, 60, 3_600)
        assert lease
        compactors.release(lease, 7 if whole else None)
        assert (compactors.last_pass_us(STREAM) is None) is due
    assert compactors.last_pass_us(STREAM) == clock.now_us
    assert compactors.acquire(STREAM, 60, 3_600) is None
    clock.pass_seconds(3_600)
    assert compactors.acquire(STREAM, 60, 3_600)


def test_a_fenced_compactor_writes_nothing(
    engine: Engine, compactors: Compactors, clock: Clock, tmp_path: Path
) -> None:
    log = CompactedLog(engine, Directory(tmp_path))
    log.thumbs(1)
    before = log.readable_segments()
    old = compactors.acquire(STREAM, 60, 0)
    clock.pass_seconds(60)
    new = compactors.acquire(STREAM, 60, 0)
    assert old
    assert new
    made = Replacement(before, "key", "hash", 1, 0, 0, 0, 1, 1)
    for write in (
        lambda: compactors.renew(old, 60),
        lambda: compactors.release(old, 7),
        lambda: compactors.publish(old, made),
    ):
        with refused(FencedError, field="epoch", reason="FENCED") as caught:
            write()
        assert {str(old.epoch), STREAM} <= set(re.findall(r"\w+", caught.value.text))
    assert (
        log.readable_segments(),
        compactors.retired(STREAM, None),
        compactors.last_pass_us(STREAM),
    ) == (
        before,
        [],
        None,
    )
    compactors.publish(new, made)
    assert [item.object_key for item in log.readable_segments()] == ["key"]
    assert compactors.retired(STREAM, None) == [before[0].object_key]
    with refused(FencedError, field="covers", reason="FENCED"):
        compactors.publish(new, made)


def test_retired_objects_are_listed_by_age_until_forgotten(
    engine: Engine, compactors: Compactors, clock: Clock, tmp_path: Path
) -> None:
    log = CompactedLog(engine, Directory(tmp_path))
    log.thumbs(1)
    (segment,) = log.readable_segments()
    lease = compactors.acquire(STREAM, 60, 0)
    assert lease
    compactors.publish(lease, Replacement([segment], "key", "hash", 1, 0, 0, 0, 1, 1))
    assert compactors.retired(STREAM, clock.now_us - 1) == []
    assert compactors.retired(STREAM, clock.now_us) == [segment.object_key]
    assert log.ledger.retired([segment.object_key, "another"]) == {segment.object_key}
    compactors.forget_retired([segment.object_key])
    assert compactors.retired(STREAM, None) == []


def test_the_database_clock_is_close_to_this_machine(engine: Engine) -> None:
    with engine.begin() as connection:
        assert abs(database_clock_us(connection) - time.time_ns() // 1_000) < 60_000_000
