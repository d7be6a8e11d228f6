"""A conversation is deleted: its turns and what was said about them leave the objects, whenever
they came, and nothing else does.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from services.chassis.identity import Caller
from services.feedback import tables
from services.feedback.codec import feedback_entry, turn_entry
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.lake.audit import audit
from services.feedback.lake.object_store import Directory
from tests.services.feedback.compacted import OPTIONS, CompactedLog, turns_log
from tests.services.feedback.samples import correction, erased, name, retraction, thumb, turn

BOB = Caller("acme", "bob")
FULL = replace(OPTIONS, limits=RunLimits(2, 1 << 20))


class CountingStore(Directory):
    """Knows what was fetched."""

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
    """How many rows were left out as erased."""
    tallies = [log.compaction(options).run(log.stream) for log in logs]
    assert all(tally and tally.complete for tally in tallies)
    return sum(tally.dropped["erased"] for tally in tallies if tally)


def about(log: CompactedLog) -> list[str]:
    return [str(row["message_id"]) for row in log.rows()]


def is_sound(log: CompactedLog, turns: CompactedLog) -> bool:
    logs = {Stream.FEEDBACK: log.logs, Stream.TURNS: turns.logs}
    return audit(log.ledger, log.store, lambda stream: logs[stream]).problems == []


def test_turns_and_all_that_was_said_about_them_leave_full_objects_too(
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


def test_what_comes_after_the_deletion_goes_at_the_next_pass(
    log: CompactedLog, turns: CompactedLog
) -> None:
    turns.commit(turn_entry(erased("m")))
    compact(log, turns)
    log.commit(feedback_entry(thumb("a")), feedback_entry(thumb("b", message="n")))
    # A relay that stood still has been overtaken.
    turns.turns("m", "n")
    assert compact(log, turns) == 2
    assert (about(log), [row["erased"] for row in turns.rows()]) == ([name("n")], [True, False])
    assert is_sound(log, turns)


def test_a_segment_that_has_not_settled_is_looked_into_as_well(
    log: CompactedLog, turns: CompactedLog
) -> None:
    log.thumbs(1)
    turns.commit(turn_entry(erased("m")))
    assert compact(log, options=replace(OPTIONS, settle_seconds=600)) == 1
    assert log.rows() == []


def test_full_objects_are_read_again_only_after_a_deletion_and_once(
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


def test_rows_that_another_version_has_left_in_its_covers_go(
    log: CompactedLog, turns: CompactedLog
) -> None:
    """It compacts what came after the deletion, knows nothing of it, and moves the epoch alone."""
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


def test_while_turns_cannot_be_read_nothing_is_said_to_be_done(
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


def test_what_crashed_writers_left_goes_too(log: CompactedLog, turns: CompactedLog) -> None:
    log.thumbs(1)
    key = f"feedback/v1/topic_id={log.logs[0].topic_id}/partition=0/{0:020d}-{1:020d}-0123456789ab.parquet"
    log.store.put(key, b"the same thumb, by a fenced writer")
    compact(log)
    assert key in set(log.keys())
    turns.commit(turn_entry(erased("m")))
    compact(log)
    assert log.keys("feedback/") == set()


def test_replaced_objects_keep_their_grace(log: CompactedLog, turns: CompactedLog) -> None:
    """Nobody waits as for an erasure: readers who have listed them read on."""
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


def test_a_turn_that_is_merged_again_and_again_stays(
    log: CompactedLog, turns: CompactedLog
) -> None:
    for number in range(4):
        turns.commit(turn_entry(turn(message=f"n{number}")), turn_entry(erased(f"m{number}")))
        compact(turns)
    assert sorted(about(turns)) == sorted(
        name(f"{letter}{number}") for letter in "nm" for number in range(4)
    )
