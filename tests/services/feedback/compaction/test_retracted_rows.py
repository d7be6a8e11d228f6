"""Deleted conversations: their turns and feedback leave all objects, and no other rows do."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from services.chassis.identity import Caller
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.lake.audit import audit
from services.feedback.lake.object_store import Directory
from services.feedback.store import tables
from services.feedback.wire import feedback_entry, turn_entry
from tests.services.feedback.compacted import OPTIONS, CompactedLog, turns_log
from tests.services.feedback.samples import correction, erased, name, retraction, thumb, turn

BOB = Caller("acme", "bob")
FULL = replace(OPTIONS, limits=RunLimits(2, 1 << 20))


class CountingStore(Directory):
    """Store that records fetched keys."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fetched: Counter[str] = Counter()

    def get(self, key: str) -> bytes:
        self.fetched[key] += 1
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path / "objects")


@pytest.fixture
def log(engine: Engine, store: CountingStore) -> CompactedLog:
    return CompactedLog(engine, store, partitions=2)


@pytest.fixture
def turns(engine: Engine, store: CountingStore) -> CompactedLog:
    return turns_log(engine, store)


def compact(*logs: CompactedLog, options=OPTIONS) -> int:
    """Run a pass and return the number of erased rows."""
    tallies = [log.compaction(options).run(log.stream) for log in logs]
    assert all(tally and tally.complete for tally in tallies)
    return sum(tally.dropped["erased"] for tally in tallies if tally)


def about(log: CompactedLog) -> list[str]:
    return [str(row["message_id"]) for row in log.rows()]


def is_sound(log: CompactedLog, turns: CompactedLog) -> bool:
    logs = {Stream.FEEDBACK: log.logs, Stream.TURNS: turns.logs}
    return audit(log.ledger, log.store, lambda stream: logs[stream]).problems == []


def test_retracted_turns_and_their_feedback_leave_full_objects(
    log: CompactedLog, turns: CompactedLog
) -> None:
    log.commit(*(feedback_entry(event) for event in (thumb("a"), correction("b"), retraction("c"))))
    log.commit(
        feedback_entry(thumb("d", caller=BOB)), feedback_entry(thumb("e", message="n")), partition=1
    )
    turns.turns("m", "n")
    assert compact(log, turns, options=FULL) == 0
    turns.commit(turn_entry(erased("m")))
    assert compact(log, turns, options=FULL) == 5
    assert about(log) == [name("n")]
    assert [(row["message_id"], row["erased"]) for row in turns.rows()] == [
        (name("n"), False),
        (name("m"), True),
    ]
    assert is_sound(log, turns)
    assert log.keys("feedback/") == {
        item.object_key for item in log.readable_segments() if item.object_key
    }


def test_rows_after_the_retraction_are_removed_by_the_next_pass(
    log: CompactedLog, turns: CompactedLog
) -> None:
    turns.commit(turn_entry(erased("m")))
    compact(log, turns)
    log.commit(feedback_entry(thumb("a")), feedback_entry(thumb("b", message="n")))
    # A delayed relay delivers after the retraction.
    turns.turns("m", "n")
    assert compact(log, turns) == 2
    assert (about(log), [row["erased"] for row in turns.rows()]) == ([name("n")], [True, False])
    assert is_sound(log, turns)


def test_recent_segments_are_checked_for_retracted_rows(
    log: CompactedLog, turns: CompactedLog
) -> None:
    log.thumbs(1)
    turns.commit(turn_entry(erased("m")))
    assert compact(log, options=replace(OPTIONS, settle_seconds=600)) == 1
    assert log.rows() == []


def test_full_objects_are_read_again_once_after_a_retraction(
    log: CompactedLog, turns: CompactedLog, store: CountingStore
) -> None:
    log.thumbs(2, message="n")
    turns.turns("m", "n")
    compact(log, turns, options=FULL)
    (cover,) = log.readable_segments()
    store.fetched.clear()
    compact(log, turns, options=FULL)
    assert store.fetched == {}
    turns.commit(turn_entry(erased("m")))
    compact(log, options=FULL)
    assert store.fetched[cover.object_key] == 1
    compact(log, options=FULL)
    assert store.fetched[cover.object_key] == 1


def test_retracted_rows_compacted_by_another_version_are_removed(
    log: CompactedLog, turns: CompactedLog
) -> None:
    """The other version compacts later rows, unaware of retractions, and moves only the epoch."""
    turns.commit(turn_entry(erased("m")))
    compact(log, turns, options=FULL)
    log.thumbs(2)
    lease = log.compactors.acquire(log.stream, 60, 0)
    assert lease
    (segment,) = log.readable_segments()
    with log.engine.begin() as connection:
        table = tables.compactors
        before = {"taken_back_epoch": lease.epoch - 1, "lease_us": 0}
        connection.execute(update(table).where(table.c.stream == log.stream).values(before))
        log_cover = {
            **{
                field: getattr(segment, field)
                for field in ("stream", "object_key", "sha256", "rows", "dead_letters")
            },
            "first_sequence": 1,
            "last_sequence": 1,
            "duplicates": 0,
            "erased": 0,
            "expired": 0,
            "bytes": 1,
            "oldest_us": 1,
            "commit_us": 1,
        }
        connection.execute(tables.covers.insert().values(log_cover))
    assert about(log) == [name("m")] * 2
    assert compact(log, options=FULL) == 2
    assert log.rows() == []
    assert is_sound(log, turns)


def test_unreadable_turns_keep_a_pass_incomplete(
    log: CompactedLog, turns: CompactedLog, store: CountingStore
) -> None:
    log.thumbs(2)
    compact(log, options=FULL)
    turns.commit(turn_entry(erased("m")))
    key = turns.readable_segments()[0].object_key
    whole = store.get(key)
    store.put(key, b"broken")
    tally = log.compaction(FULL).run(log.stream)
    assert tally is not None
    assert (tally.complete, len(log.rows())) == (False, 2)
    store.put(key, whole)
    assert compact(log, options=FULL) == 2


def test_orphans_of_crashed_writers_are_deleted(log: CompactedLog, turns: CompactedLog) -> None:
    log.thumbs(1)
    folder = f"feedback/v1/topic_id={log.logs[0].topic_id}/partition=0"
    key = f"{folder}/{0:020d}-{1:020d}-0123456789ab.parquet"
    log.store.put(key, b"the same thumb, by a fenced writer")
    compact(log)
    assert key in set(log.keys())
    turns.commit(turn_entry(erased("m")))
    compact(log)
    assert log.keys("feedback/") == set()


def test_replaced_objects_keep_their_delay_after_a_retraction(
    log: CompactedLog, turns: CompactedLog
) -> None:
    """Unlike an erasure, a retraction does not shorten the delay for readers."""
    log.thumbs(1)
    log.thumbs(1, message="n")
    turns.commit(turn_entry(erased("m")))
    options = replace(OPTIONS, retired_seconds=3_600)
    before = log.keys("feedback/")
    compact(log, options=options)
    assert before < log.keys("feedback/")
    log.pass_seconds(3_600)
    compact(log, options=options)
    assert log.keys("feedback/") == {item.object_key for item in log.readable_segments()}


def test_a_repeatedly_merged_turn_stays(log: CompactedLog, turns: CompactedLog) -> None:
    for number in range(4):
        turns.commit(turn_entry(turn(message=f"n{number}")), turn_entry(erased(f"m{number}")))
        compact(turns)
    assert sorted(about(turns)) == sorted(
        name(f"{letter}{number}") for letter in "nm" for number in range(4)
    )
