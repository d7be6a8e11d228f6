"""Compaction pass on both databases: rows for readers, removed rows, and failures."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete

from services.chassis.identity import Caller
from services.feedback.compaction.compaction import CompactionStep, StoppedError
from services.feedback.compaction.runs import RunLimits
from services.feedback.compaction.schedule import compact_all
from services.feedback.lake.audit import Report, audit
from services.feedback.lake.object_store import Directory, ObjectStoreError
from services.feedback.lake.orphans import find_orphans
from services.feedback.projections import thumbs
from services.feedback.projections.experiments import catch_up as rebuild_exposures
from services.feedback.store import tables
from services.feedback.store.database import FencedError
from services.feedback.wire import feedback_entry, turn_entry
from tests.services.feedback.compacted import DAY, OPTIONS, CompactedLog, turns_log
from tests.services.feedback.samples import erased, garbage, thumb

BOB = Caller("acme", "bob")
BOBS = thumb("x", caller=BOB).principal


@pytest.fixture
def store(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "objects")


@pytest.fixture
def log(engine: Engine, store: Directory) -> CompactedLog:
    return CompactedLog(engine, store, partitions=2)


def audited(log: CompactedLog) -> Report:
    """Audit the only stream."""
    return audit(log.ledger, log.store, lambda stream: log.logs if stream == log.stream else [])


def test_segments_of_all_partitions_become_one_object_in_ledger_order(log: CompactedLog) -> None:
    for number in range(6):
        log.thumbs(3, partition=number % 2)
    before, segments = log.ids(), log.ledger.segments("feedback")
    tally = log.compaction().run(log.stream)
    assert tally is not None
    assert (tally.replaced, tally.covers, log.shape()) == (6, 1, [(1, 6, 18)])
    assert log.ids() == before
    assert log.ledger.segments("feedback") == segments, "the ledger still accounts for every offset"
    report = audited(log)
    assert report.problems == []
    assert "covers=1 segments=6 rows=18 duplicates=0 erased=0 expired=0" in report.lines()[-2]


def test_a_second_pass_has_nothing_to_do(log: CompactedLog) -> None:
    log.thumbs(3)
    log.compaction().run(log.stream)
    keys = log.keys()
    tally = log.compaction().run(log.stream)
    assert tally is not None
    assert (tally.covers, log.keys()) == (0, keys)


def test_rows_keep_their_sequence_after_a_second_merge(log: CompactedLog) -> None:
    log.thumbs(1, partition=1)
    log.thumbs(1)
    log.compaction().run(log.stream)
    log.thumbs(2, partition=1)
    log.compaction().run(log.stream)
    found = [(row["sequence"], row["partition"], row["offset"]) for row in log.rows()]
    assert (log.shape(), found) == ([(1, 3, 4)], [(1, 1, 0), (2, 0, 0), (3, 1, 1), (3, 1, 2)])


def test_recent_segments_are_not_merged(log: CompactedLog) -> None:
    log.thumbs(1)
    log.thumbs(1)
    log.pass_seconds(600)
    log.thumbs(1)
    compaction = log.compaction(replace(OPTIONS, settle_seconds=600))
    log.pass_seconds(1)
    compaction.run(log.stream)
    assert log.shape() == [(1, 2, 2), (3, 3, 1)]


def test_an_object_stays_below_the_target_size(log: CompactedLog) -> None:
    for _ in range(10):
        log.thumbs(10)
    log.compaction(replace(OPTIONS, limits=RunLimits(40, 1 << 20))).run(log.stream)
    assert log.shape() == [(1, 4, 40), (5, 8, 40), (9, 10, 20)]
    assert audited(log).problems == []


def test_a_run_above_the_size_limit_is_split(log: CompactedLog) -> None:
    for _ in range(6):
        log.thumbs(10)
    log.compaction(replace(OPTIONS, limits=RunLimits(1_000, 8_000))).run(log.stream)
    shape = log.shape()
    assert len(shape) > 1
    assert sum(rows for _, _, rows in shape) == 60
    assert audited(log).problems == []


def test_a_compacted_segment_without_rows_has_no_object(log: CompactedLog) -> None:
    log.commit(garbage("a"))
    log.commit(garbage("b"))
    log.compaction().run(log.stream)
    (cover,) = log.readable_segments()
    assert (cover.object_key, cover.sha256, cover.dead_letters, cover.oldest_us) == (
        "",
        "",
        2,
        None,
    )
    assert audited(log).problems == []
    log.thumbs(1)
    log.compaction().run(log.stream)
    assert log.shape() == [(1, 3, 1)]


def test_replaced_objects_are_deleted_after_a_delay(
    log: CompactedLog,
) -> None:
    log.thumbs(1)
    log.thumbs(1)
    before = log.keys()
    compaction = log.compaction(replace(OPTIONS, retired_seconds=3_600))
    compaction.run(log.stream)
    assert before < log.keys()
    assert list(find_orphans(log.ledger, log.store, "feedback")) == []
    log.pass_seconds(3_599)
    compaction.run(log.stream)
    assert before < log.keys()
    log.pass_seconds(1)
    compaction.run(log.stream)
    (cover,) = log.readable_segments()
    assert log.keys() == {cover.object_key}


def test_expired_rows_are_removed_from_objects_of_any_size(
    log: CompactedLog,
) -> None:
    now = log.now_us // 1_000_000
    old, new = log.thumbs(2, at=now - 9 * DAY), log.thumbs(2, at=now)
    options = replace(OPTIONS, keep_seconds=10 * DAY, limits=RunLimits(4, 1 << 20))
    log.compaction(options).run(log.stream)
    assert log.ids() == old + new
    log.pass_seconds(2 * DAY)
    tally = log.compaction(options).run(log.stream)
    assert tally is not None
    assert (log.ids(), tally.dropped["expired"]) == (new, 2)
    log.pass_seconds(20 * DAY)
    log.compaction(options).run(log.stream)
    (cover,) = log.readable_segments()
    assert (cover.rows, cover.expired, cover.object_key) == (0, 4, "")
    assert (audited(log).problems, log.keys()) == ([], set())


def test_a_retracting_turn_outlives_the_rows_of_its_answer(
    engine: Engine, store: Directory
) -> None:
    log = turns_log(engine, store)
    log.now_us = 3_000 * 1_000_000
    log.turns("m")
    log.commit(turn_entry(erased("m")))
    options = replace(OPTIONS, keep_seconds=10 * DAY)
    log.now_us = (2_000 + 10 * DAY + 1) * 1_000_000
    log.compaction(options).run(log.stream)
    assert [row["erased"] for row in log.rows()] == [True]
    log.pass_seconds(DAY)
    log.compaction(options).run(log.stream)
    assert log.rows() == []


def test_erased_rows_leave_readable_and_orphan_objects_at_once(log: CompactedLog) -> None:
    full = replace(OPTIONS, limits=RunLimits(4, 1 << 20), settle_seconds=600, retired_seconds=3_600)
    log.thumbs(2)
    ada = log.thumbs(2)
    log.pass_seconds(601)
    log.compaction(full).run(log.stream)
    bob = log.thumbs(3, caller=BOB)
    more = log.thumbs(1)
    principal = thumb("x").principal
    log.erased.erase(principal, through_sequence=3)
    # A crashed compactor and a crashed sink have left orphans.
    log.store.put(f"feedback/v1/compacted/{1:020d}-{2:020d}-1-0123456789ab.parquet", b"her words")
    log.store.put(
        f"feedback/v1/topic_id={log.logs[0].topic_id}/partition=0/"
        f"{0:020d}-{1:020d}-0123456789ab.parquet",
        b"her words",
    )
    tally = log.compaction(full).run(log.stream)
    assert tally is not None
    assert ada
    assert tally.dropped["erased"] == 4
    assert log.ids() == bob + more, "the newest are as they were"
    assert log.keys() == {item.object_key for item in log.readable_segments() if item.object_key}
    assert log.erased.settled == [{principal}]
    assert audited(log).problems == []


def test_a_full_compacted_segment_across_an_erasure_is_read_again(
    log: CompactedLog,
) -> None:
    """A pass that started before the erasure publishes after the erasure."""
    full = replace(OPTIONS, limits=RunLimits(2, 1 << 20))
    log.thumbs(1)
    bob = log.thumbs(1, caller=BOB)
    log.compaction(full).run(log.stream)
    log.erased.erase(thumb("x").principal, through_sequence=1)
    log.compaction(full).run(log.stream)
    assert (log.shape(), log.ids()) == ([(1, 2, 1)], bob)


def test_an_unreadable_object_keeps_an_erasure_pending(log: CompactedLog, store: Directory) -> None:
    log.thumbs(1)
    for _ in range(2):
        log.thumbs(1, caller=BOB)
    broken = log.readable_segments()[0].object_key
    whole = store.get(broken)
    store.put(broken, b"broken")
    log.erased.erase(thumb("x").principal, through_sequence=2)
    tally = log.compaction().run(log.stream)
    assert tally is not None
    assert (tally.complete, log.erased.settled) == (False, [])
    assert log.shape() == [(1, 1, 1), (2, 3, 2)], (
        "its neighbours are merged, and nothing is published over it"
    )
    store.put(broken, whole)
    assert (log.compaction().run(log.stream) or tally).complete
    assert (sorted(row["principal"] for row in log.rows()), len(log.erased.settled)) == (
        [BOBS] * 2,
        1,
    )


def test_the_first_of_duplicate_events_is_kept(log: CompactedLog) -> None:
    log.commit(feedback_entry(thumb("a", True)))
    with log.engine.begin() as connection:
        connection.execute(delete(tables.event_ids))
    log.commit(feedback_entry(thumb("a", True)), partition=1)
    assert "DUPLICATE" in {problem.reason for problem in audited(log).problems}
    log.compaction().run(log.stream)
    (row,) = log.rows()
    assert (row["partition"], log.readable_segments()[0].duplicates, audited(log).problems) == (
        0,
        1,
        [],
    )


def test_columns_known_to_a_single_writer_are_kept(log: CompactedLog) -> None:
    """Objects of an older and a newer version are united by column name."""
    log.thumbs(1)
    key = log.readable_segments()[0].object_key
    assert key
    log.compaction().run(log.stream)
    assert {"sequence", "comment", "unknown_bytes"} <= log.rows()[0].keys()


async def test_thumbs_and_exposures_are_rebuilt_from_compacted_segments(
    engine: Engine, store: Directory, log: CompactedLog
) -> None:
    log.commit(feedback_entry(thumb("a", True)))
    log.commit(feedback_entry(thumb("b", False)), partition=1)
    log.commit(feedback_entry(thumb("c", True, message="n")))
    turns = turns_log(engine, store)
    turns.turns("m", "n")
    for one in (log, turns):
        one.compaction().run(one.stream)
    with engine.begin() as connection:
        connection.execute(delete(tables.thumbs))
        connection.execute(delete(tables.thumb_positions))
    assert thumbs.catch_up(log.ledger, store, "feedback")
    assert not thumbs.catch_up(log.ledger, store, "feedback")
    with engine.begin() as connection:
        found = {row.message_id: row.up for row in connection.execute(tables.thumbs.select())}
    assert found == {thumb("x").message_id: False, thumb("x", message="n").message_id: True}
    assert rebuild_exposures(turns.ledger, store, "turns")
    with engine.begin() as connection:
        assert [row.model_version for row in connection.execute(tables.exposures.select())] == [
            "v1"
        ]


def test_a_pass_runs_only_when_due(log: CompactedLog) -> None:
    assert log.compaction().run(log.stream, 3_600)
    assert log.compaction().run(log.stream, 3_600) is None
    log.pass_seconds(3_600)
    assert log.compaction().run(log.stream, 3_600)


def test_a_failed_pass_is_due_again(log: CompactedLog, store: Directory) -> None:
    class Away(Directory):
        def put(self, key: str, data: bytes) -> None:
            raise ObjectStoreError("away")

    log.thumbs(1)
    failing = log.compaction(store=Away(store._root))
    with pytest.raises(ObjectStoreError):
        failing.run(log.stream, 3_600)
    assert log.compaction().run(log.stream, 3_600)
    assert [item.is_compacted for item in log.readable_segments()] == [True]


def test_a_frozen_compactor_publishes_nothing(log: CompactedLog) -> None:
    log.thumbs(1)
    log.thumbs(1)
    others: list[object] = []

    def at(step: str) -> None:
        if step == "stored" and not others:
            others.append(log.compaction().run(log.stream))
            log.pass_seconds(61)
            others.append(log.compaction().run(log.stream))

    with pytest.raises(FencedError):
        log.compaction(at=at).run(log.stream)
    assert others[0] is None, "as long as its lease lasts nobody else compacts"
    assert others[1]
    (cover,) = log.readable_segments()
    (orphan,) = find_orphans(log.ledger, log.store, "feedback")
    assert orphan.dead
    assert orphan.key != cover.object_key
    assert audited(log).problems == []


def test_an_object_before_its_publication_is_no_dead_orphan(log: CompactedLog) -> None:
    found: list[bool] = []

    def at(step: CompactionStep) -> None:
        if step is CompactionStep.STORED:
            found.extend(orphan.dead for orphan in find_orphans(log.ledger, log.store, "feedback"))
        if step is CompactionStep.PUBLISHED:
            assert list(find_orphans(log.ledger, log.store, "feedback")) == []

    log.thumbs(1)
    log.compaction(at=at).run(log.stream)
    assert found == [False]


def test_a_stopped_pass_ends_at_its_next_step(log: CompactedLog) -> None:
    log.thumbs(1)
    compaction = log.compaction(at=lambda step: compaction.stop())
    with pytest.raises(StoppedError):
        compaction.run(log.stream)
    assert [item.is_compacted for item in log.readable_segments()] == [False]


def test_the_command_prints_its_results(log: CompactedLog) -> None:
    said: list[str] = []
    log.thumbs(2)
    assert compact_all(log.compaction(), said.append) == 0
    assert said == [
        "feedback: replaced=1 covers=1 deleted=1 duplicate=0 erased=0 expired=0",
        "turns: replaced=0 covers=0 deleted=0",
    ]
    log.compactors.acquire("turns", 60, 0)
    assert compact_all(log.compaction(), said.append) == 1
    assert said[-1].startswith("turns: ")
    assert "replaced=" not in said[-1]
