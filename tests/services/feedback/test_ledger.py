"""The commit point: contiguous, fenced, one transaction, and there after power loss."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, select, text

from services.feedback import tables
from services.feedback.catalogue import Catalogue
from services.feedback.database import open_database
from services.feedback.events import Stream
from services.feedback.ledger import (
    Batch,
    DeadLetter,
    FencedError,
    Ledger,
    LedgerUnavailableError,
    Segment,
)

TOPIC = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_database(f"sqlite:///{tmp_path}/made/ledger.db")
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    return Ledger(engine, now_us=lambda: 5)


def batch(end: int, rows: int, dead: int = 0, ids: tuple[str, ...] = ()) -> Batch:
    letters = [DeadLetter(end - 1 - number, "not valid protobuf", b"\xff") for number in range(dead)]
    return Batch(end, f"key-{end}", "hash", rows, letters, {event_id: bytes(32) for event_id in ids}, ids)


def nothing(connection: Connection) -> None:
    pass


def test_segments_follow_each_other_and_account_for_every_offset(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    lease, first = ledger.commit(lease, batch(end=10, rows=7, dead=1), nothing)
    lease, second = ledger.commit(lease, batch(end=11, rows=1), nothing)
    assert first == Segment("feedback", TOPIC, 0, 1, 0, 10, "key-10", "hash", 7, 1, 2, 5)
    assert (second.sequence, second.start_offset, second.end_offset, second.tombstones) == (2, 10, 11, 0)
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


def test_a_commit_that_was_done_already_is_fenced(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    ledger.commit(lease, batch(end=3, rows=3), nothing)
    with pytest.raises(FencedError):
        ledger.commit(lease, batch(end=3, rows=3), nothing)
    assert len(ledger.segments("feedback")) == 1
    assert ledger.lease("feedback", TOPIC, 0).end_offset == 3


def test_what_is_written_within_a_commit_is_there_with_it_or_not_at_all(ledger: Ledger, engine: Engine) -> None:
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
    lease, _ = ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=1, rows=1, ids=("a",)), nothing)
    with pytest.raises(FencedError):
        ledger.commit(lease, batch(end=2, rows=1, ids=("a",)), nothing)
    assert ledger.fingerprints("feedback", ["a", "b"]) == {"a": bytes(32)}


def test_a_log_made_anew_begins_at_zero_while_the_sequence_goes_on(ledger: Ledger) -> None:
    ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=5, rows=5), nothing)
    again = ledger.lease("feedback", "22222222-2222-2222-2222-222222222222", 0)
    _, segment = ledger.commit(again, batch(end=2, rows=2), nothing)
    assert (segment.start_offset, segment.sequence) == (0, 2)
    assert [s.topic_id[0] for s in ledger.segments("feedback")] == ["1", "2"]


def test_streams_have_sequences_and_ids_of_their_own(ledger: Ledger) -> None:
    ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=1, rows=1, ids=("a",)), nothing)
    other = ledger.lease("turns", "22222222-2222-2222-2222-222222222222", 0)
    _, segment = ledger.commit(other, batch(end=1, rows=1, ids=("a",)), nothing)
    assert segment.sequence == 1


def test_more_ids_than_one_query_takes_are_all_found(ledger: Ledger) -> None:
    ids = tuple(f"id-{number}" for number in range(1_234))
    ledger.commit(ledger.lease("feedback", TOPIC, 0), batch(end=1_234, rows=1_234, ids=ids), nothing)
    assert set(ledger.fingerprints("feedback", [*ids, "other"])) == set(ids)


def test_commits_reach_the_disk_before_they_return(engine: Engine) -> None:
    with engine.begin() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_a_database_that_is_away_is_unavailable(ledger: Ledger, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE segments"))
    with pytest.raises(LedgerUnavailableError):
        ledger.segments("feedback")


async def test_readers_page_through_the_catalogue_until_it_is_empty(ledger: Ledger) -> None:
    lease = ledger.lease("feedback", TOPIC, 0)
    for end in (1, 2, 3):
        lease, _ = ledger.commit(lease, batch(end=end, rows=1), nothing)
    catalogue, pages, last = Catalogue(ledger, page=2), [], 0
    while page := await catalogue.after(Stream.FEEDBACK, last):
        pages.append([segment.sequence for segment in page])
        last = page[-1].sequence
    assert pages == [[1, 2], [3]]
