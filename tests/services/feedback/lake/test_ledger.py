"""Ledger: contiguous segments, fencing, one transaction, and durability."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, select, text

from services.feedback.events import Stream
from services.feedback.lake.ledger import Batch, DeadLetter, Ledger, Segment
from services.feedback.store import tables
from services.feedback.store.database import (
    POSTGRES_SECONDS,
    FencedError,
    LedgerUnavailableError,
    connect,
)
from tests.servers import PostgresServer

TOPIC = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, now_us=lambda: 5)


def batch(end: int, rows: int, dead: int = 0, ids: tuple[str, ...] = ()) -> Batch:
    letters = [
        DeadLetter(end - 1 - number, "not valid protobuf", b"\xff") for number in range(dead)
    ]
    return Batch(
        end, f"key-{end}", "hash", rows, letters, {event_id: bytes(32) for event_id in ids}, ids
    )


def nothing(connection: Connection) -> None:
    pass


def test_segments_follow_each_other_and_account_for_every_offset(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    lease, first = ledger.commit(lease, batch(end=10, rows=7, dead=1), nothing)
    lease, second = ledger.commit(lease, batch(end=11, rows=1), nothing)
    assert first == Segment("feedback", TOPIC, 0, 1, 0, 10, "key-10", "hash", 7, 1, 2, 5)
    assert (second.sequence, second.start_offset, second.end_offset, second.tombstones) == (
        2,
        10,
        11,
        0,
    )
    assert ledger.segments("feedback") == [first, second]
    assert ledger.segments("feedback", after_sequence=1) == [second]
    assert ledger.segments("feedback", limit=1) == [first]
    assert ledger.segments("turns") == []
    assert ledger.dead_letter_offsets(TOPIC, 0) == {9}
    assert ledger.end_offset(TOPIC, 0) == lease.end_offset == 11


def test_an_older_lease_is_fenced_and_commits_nothing(ledger: Ledger) -> None:
    zombie = ledger.lease("feedback", TOPIC, 0)
    lease = ledger.lease("feedback", TOPIC, 0)
    with pytest.raises(FencedError):
        ledger.commit(zombie, batch(end=3, rows=3, ids=("a",)), nothing)
    assert (ledger.segments("feedback"), ledger.fingerprints("feedback", ["a"])) == ([], {})
    ledger.commit(lease, batch(end=2, rows=2), nothing)
    assert ledger.end_offset(TOPIC, 0) == 2


def test_a_repeated_commit_is_fenced(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    ledger.commit(lease, batch(end=3, rows=3), nothing)
    with pytest.raises(FencedError):
        ledger.commit(lease, batch(end=3, rows=3), nothing)
    assert len(ledger.segments("feedback")) == 1
    assert ledger.lease("feedback", TOPIC, 0).end_offset == 3


def test_writes_within_a_commit_are_atomic_with_it(ledger: Ledger, engine: Engine) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)

    def fails(connection: Connection) -> None:
        connection.execute(text("INSERT INTO thumb_positions VALUES ('t', 0, 3)"))
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        ledger.commit(lease, batch(end=3, rows=3, ids=("a",)), fails)
    with engine.begin() as connection:
        assert connection.execute(select(tables.thumb_positions)).all() == []
    assert (ledger.segments("feedback"), ledger.end_offset(TOPIC, 0)) == ([], 0)


def test_an_event_id_cannot_be_committed_twice(ledger: Ledger) -> None:
    lease, _ = ledger.commit(
        ledger.lease("feedback", TOPIC, 0), batch(end=1, rows=1, ids=("a",)), nothing
    )
    with pytest.raises(FencedError):
        ledger.commit(lease, batch(end=2, rows=1, ids=("a",)), nothing)
    assert ledger.fingerprints("feedback", ["a", "b"]) == {"a": bytes(32)}


def test_a_recreated_log_starts_at_zero_and_the_sequence_continues(ledger: Ledger) -> None:
    ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=5, rows=5), nothing)
    again = ledger.lease("feedback", "22222222-2222-2222-2222-222222222222", 0)
    _, segment = ledger.commit(again, batch(end=2, rows=2), nothing)
    assert (segment.start_offset, segment.sequence) == (0, 2)
    assert [s.topic_id[0] for s in ledger.segments("feedback")] == ["1", "2"]


def test_streams_have_separate_sequences_and_ids(ledger: Ledger) -> None:
    ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=1, rows=1, ids=("a",)), nothing)
    other = ledger.lease("turns", "22222222-2222-2222-2222-222222222222", 0)
    _, segment = ledger.commit(other, batch(end=1, rows=1, ids=("a",)), nothing)
    assert segment.sequence == 1


def test_more_ids_than_one_query_takes_are_all_found(ledger: Ledger) -> None:
    ids = tuple(f"id-{number}" for number in range(1_234))
    ledger.commit(
        ledger.lease("feedback", TOPIC, 0), batch(end=1_234, rows=1_234, ids=ids), nothing
    )
    assert set(ledger.fingerprints("feedback", [*ids, "other"])) == set(ids)


def test_commits_reach_the_disk_before_they_return(engine: Engine) -> None:
    asked = {
        "sqlite": {"PRAGMA synchronous": 2, "PRAGMA journal_mode": "wal"},
        "postgresql": {"SHOW synchronous_commit": "on"},
    }
    with engine.begin() as connection:
        for question, answer in asked[engine.dialect.name].items():
            assert connection.execute(text(question)).scalar() == answer


def test_the_sequence_spans_all_partitions_of_a_stream(ledger: Ledger) -> None:
    leases = [ledger.lease("feedback", TOPIC, partition) for partition in range(3)]
    committed = [
        ledger.commit(lease, batch(end=2, rows=2), nothing)[1] for lease in reversed(leases)
    ]
    assert [(segment.sequence, segment.partition) for segment in committed] == [
        (1, 2),
        (2, 1),
        (3, 0),
    ]
    assert ledger.segments("feedback", after_sequence=1) == committed[1:]


def test_concurrent_commits_to_partitions_have_sequences_without_gaps(
    ledger: Ledger,
) -> None:
    def fill(partition: int) -> None:
        lease = ledger.lease("feedback", TOPIC, partition)
        for end in range(1, 11):
            lease, _ = ledger.commit(
                lease, batch(end, rows=1, ids=(f"{partition}-{end}",)), nothing
            )

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, range(4)))
    found = ledger.segments("feedback")
    assert [segment.sequence for segment in found] == list(range(1, 41))
    assert [ledger.end_offset(TOPIC, partition) for partition in range(4)] == [10] * 4


def test_the_first_two_commits_of_a_stream_are_serialised(engine: Engine) -> None:
    """Two partitions of a new ledger commit at once; neither is fenced."""
    ledger, first_is_in, second_came = Ledger(engine), threading.Event(), threading.Event()
    leases = [ledger.lease("feedback", TOPIC, partition) for partition in range(2)]

    def slowly(_connection: Connection) -> None:
        first_is_in.set()
        second_came.wait(10)

    with ThreadPoolExecutor() as threads:
        first = threads.submit(ledger.commit, leases[0], batch(end=1, rows=1, ids=("a",)), slowly)
        assert first_is_in.wait(10)
        second = threads.submit(ledger.commit, leases[1], batch(end=1, rows=1, ids=("b",)), nothing)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        second_came.set()
        assert [done.result()[1].sequence for done in (first, second)] == [1, 2]


def test_a_writer_frozen_inside_a_commit_blocks_others_only_briefly(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(postgres_engine)
    lease, _ = ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=1, rows=1), nothing)
    monkeypatch.setitem(POSTGRES_SECONDS, "idle_in_transaction_session_timeout", 1)
    frozen = connect(postgres_engine.url.render_as_string(hide_password=False))
    with (
        pytest.raises(LedgerUnavailableError),
        Ledger(frozen).commits_blocked("feedback") as connection,
    ):
        # This transaction holds the stream's row and idles. The other one waits and then gets the
        # lock.
        ledger.commit(lease, batch(end=2, rows=1), nothing)
        connection.execute(text("SELECT 1"))
    assert ledger.end_offset(TOPIC, 0) == 2
    frozen.dispose()


def test_a_database_without_the_tables_is_unavailable(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(LedgerUnavailableError):
        Ledger(engine).segments("feedback")
    engine.dispose()


def test_a_stopped_database_is_unavailable_until_it_returns(
    postgres: PostgresServer, postgres_engine: Engine
) -> None:
    ledger = Ledger(postgres_engine)
    ledger.lease("feedback", TOPIC, 0)
    postgres.kill()
    with pytest.raises(LedgerUnavailableError):
        ledger.lease("feedback", TOPIC, 0)
    postgres.start()
    assert ledger.lease("feedback", TOPIC, 0).epoch == 2


def test_readers_page_through_the_segments_until_a_page_is_empty(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    for end in (1, 2, 3):
        lease, _ = ledger.commit(lease, batch(end=end, rows=1), nothing)
    pages, last = [], 0
    while page := ledger.readable_segments(Stream.FEEDBACK, last, limit=2):
        pages.append([segment.sequence for segment in page])
        last = page[-1].sequence
    assert pages == [[1, 2], [3]]
