"""Erasure on both databases: earlier events disappear, later events stay, repetition is safe."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, delete, insert, select, text, update

from services.chassis.errors import NotFoundError, UnavailableError
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.events import Stream
from services.feedback.lake.audit import Problem, audit
from services.feedback.lake.ledger import ErasedConcurrentlyError
from services.feedback.principals.erasures import (
    Erasures,
    PendingErasures,
    update_metrics_periodically,
)
from services.feedback.principals.sealing import key_id_of
from services.feedback.projections import experiments, thumbs
from services.feedback.sink import SinkStep
from services.feedback.spool.claims import PostgresClaims
from services.feedback.spool.log import Record
from services.feedback.spool.spool import inspect
from services.feedback.store import tables
from services.feedback.store.database import scrub
from services.feedback.wire import decode_feedback, feedback_entry
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import (
    ADA,
    KEY,
    correction,
    erased,
    name,
    retraction,
    thumb,
    turn,
)
from tests.services.feedback.sealing_world import ROOM, SealingWorld

BOB = Caller("acme", "bob")
ME, OTHER = principal_of(KEY, ADA), principal_of(KEY, BOB)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[SealingWorld]:
    world = SealingWorld(tmp_path, engine)
    yield world
    world.close()


def problems(world: SealingWorld) -> list[Problem]:
    return audit(
        world.ledger, world.store, lambda stream: inspect(world.root / "spool" / stream)
    ).problems


def requests(world: SealingWorld) -> list[str]:
    return [str(row["event_id"]) for row in world.rows()]


def test_an_erasure_shreds_the_key_and_deletes_only_its_projections(
    world: SealingWorld,
) -> None:
    world.say(thumb("a"), thumb("b", caller=BOB))
    world.finish(turn(message="m"))
    world.sink()
    assert world.current() == (2, 1)
    erasure, is_new = world.erasures.erase(ME, "acme")
    assert (is_new, erasure.number, erasure.principal, erasure.rewrite_us) == (True, 1, ME, None)
    assert erasure.request_us <= erasure.shred_us
    assert world.current() == (1, 0)
    assert set(world.keys.existing([ME, OTHER])) == {OTHER}
    assert world.erasures.get(ME, erasure.erasure_id) == erasure
    (row,) = world.all_of(tables.erasures)
    assert row["key_id"] == key_id_of(
        next(bytes(row["sealed"]) for row in world.rows() if row["principal"] == ME)
    )
    assert {
        (reach["stream"], reach["sequence"]) for reach in world.all_of(tables.erasure_reaches)
    } == {
        ("feedback", 1),
        ("turns", 1),
    }


def test_events_in_transit_become_tombstones_and_later_events_stay(
    world: SealingWorld,
) -> None:
    world.say(thumb("a"), correction("b", "mine"), thumb("c", caller=BOB))
    world.finish(turn(message="m"))
    world.erasures.erase(ME, "acme")
    world.say(thumb("d", message="n"))
    world.sink()
    assert requests(world) == [thumb("c", caller=BOB).event_id, thumb("d").event_id]
    assert world.rows(Stream.TURNS) == []
    assert world.current() == (2, 0)
    assert [segment.tombstones for segment in world.ledger.segments("feedback")] == [2]
    assert problems(world) == []


def test_an_erasure_between_object_and_commit_is_seen_by_the_commit(world: SealingWorld) -> None:
    world.say(thumb("a"), thumb("b", caller=BOB))
    erasing = erase_when_stored(world, ME)
    world.sink()
    assert erasing == []
    assert requests(world) == [thumb("b", caller=BOB).event_id]
    assert world.current() == (1, 0)
    assert problems(world) == []


def test_repeated_concurrent_erasures_defer_the_batch_to_the_next_flush(
    world: SealingWorld,
) -> None:
    world.say(thumb("a"), thumb("b", caller=BOB))
    erasing = erase_when_stored(world, ME, OTHER)
    sink, _ = world.sinks
    sink.assign()
    with pytest.raises(ErasedConcurrentlyError):
        sink.flush()
    assert (world.ledger.segments("feedback"), erasing) == ([], [])
    world.sink()
    assert [segment.tombstones for segment in world.ledger.segments("feedback")] == [2]
    assert (world.rows(), world.current(), problems(world)) == ([], (0, 0), [])


def erase_when_stored(world: SealingWorld, *principals: str) -> list[str]:
    """Erase the next principal after each put of a sink, and return the remaining principals."""
    waiting = list(principals)

    def erase(step: SinkStep) -> None:
        if step is SinkStep.STORED and waiting:
            world.erasures.erase(waiting.pop(0), "acme")

    world.at = erase
    return waiting


def test_a_resent_erased_event_stays_erased(world: SealingWorld) -> None:
    world.say(thumb("a"))
    world.finish(turn(message="m"))
    world.erasures.erase(ME, "acme")
    assert world.say(thumb("a")) == [0]
    world.sink()
    assert world.say(thumb("a")) == [0]
    assert world.finish(turn(message="m")) == [0]
    world.sink()
    assert (world.rows(), world.rows(Stream.TURNS), world.current()) == ([], [], (0, 0))


@pytest.mark.parametrize("said_before", [True, False])
def test_a_turn_delivered_after_the_erasure_loses_its_texts(
    world: SealingWorld, said_before: bool
) -> None:
    if said_before:
        world.say(thumb("a"))
    erasure, _ = world.erasures.erase(ME, "acme")
    overtaken, later = turn("canary", message="m"), turn(message="n")
    overtaken.finish_time.FromMicroseconds(erasure.request_us)
    later.finish_time.FromMicroseconds(erasure.request_us + 1)
    assert world.finish(overtaken, later, erased("m")) == [1, 1, 1]
    spooled = b"".join(record.entry.payload for record in world.turns.read(0, 10, ROOM))
    assert b"canary" not in spooled
    world.sink()
    found = [
        (row["message_id"], row["erased"], bool(row["sealed"])) for row in world.rows(Stream.TURNS)
    ]
    assert found == [(later.message_id, False, True), (overtaken.message_id, True, True)]
    assert world.finish(overtaken) == [0]


def test_a_repeated_erasure_returns_the_last_one(world: SealingWorld) -> None:
    world.say(thumb("a"))
    first, _ = world.erasures.erase(ME, "acme")
    assert world.erasures.erase(ME, "acme") == (first, False)
    world.say(thumb("b"))
    second, is_new = world.erasures.erase(ME, "acme")
    assert (second.number, is_new) == (2, True)
    assert second.erasure_id != first.erasure_id
    assert [one.number for one in world.erasures.after(0)] == [1, 2]
    assert world.erasures.after(1) == [second]


def test_concurrent_erasures_have_numbers_without_gaps(engine: Engine) -> None:
    erasures = Erasures(engine, page=2)
    with ThreadPoolExecutor(5) as pool:
        made = list(pool.map(lambda number: erasures.erase(f"{number:064x}", "acme")[0], range(5)))
    pages, after = [], 0
    while page := erasures.after(after):
        pages.append([one.number for one in page])
        after = page[-1].number
    assert pages == [[1, 2], [3, 4], [5]]
    assert {one.principal for one in made} == {f"{number:064x}" for number in range(5)}


def test_an_erasure_without_feedback_is_complete_at_once(world: SealingWorld) -> None:
    world.say(thumb("a", caller=BOB))
    world.sink()
    erasure, is_new = world.erasures.erase(ME, "acme")
    assert (is_new, erasure.rewrite_us) == (True, erasure.shred_us)
    assert world.erasures.pending() == PendingErasures(0, None)


def test_an_unknown_or_foreign_erasure_is_not_found(world: SealingWorld) -> None:
    erasure, _ = world.erasures.erase(ME, "acme")
    for principal, erasure_id in ((OTHER, erasure.erasure_id), (ME, name("nothing"))):
        with pytest.raises(NotFoundError):
            world.erasures.get(principal, erasure_id)


def test_an_erasure_waits_until_all_streams_are_rewritten(world: SealingWorld) -> None:
    world.say(thumb("a"), thumb("b", caller=BOB))
    world.finish(turn(message="m"))
    world.sink()
    first, _ = world.erasures.erase(ME, "acme")
    assert world.erasures.pending() == PendingErasures(1, first.request_us)
    feedback, turns = world.erasures.for_stream("feedback"), world.erasures.for_stream("turns")
    assert (feedback.through_sequence, turns.through_sequence) == (1, 1)
    second, _ = world.erasures.erase(OTHER, "acme")
    feedback.mark_rewritten()
    assert world.erasures.get(ME, first.erasure_id).rewrite_us is None
    turns.mark_rewritten()
    assert world.erasures.get(ME, first.erasure_id).rewrite_us is not None
    # A later erasure belongs to the next pass.
    assert world.erasures.pending() == PendingErasures(1, second.request_us)
    world.erasures.for_stream("feedback").mark_rewritten()
    world.erasures.for_stream("turns").mark_rewritten()
    assert world.erasures.pending().erasures == 0
    assert world.erasures.for_stream("feedback").through_sequence is None


def test_events_only_in_the_spool_need_no_rewriting(world: SealingWorld) -> None:
    world.say(thumb("a"))
    erasure, _ = world.erasures.erase(ME, "acme")
    assert erasure.rewrite_us == erasure.shred_us


def test_rebuilt_tables_omit_erased_rows(world: SealingWorld) -> None:
    world.say(thumb("a"), thumb("b", caller=BOB))
    world.finish(turn(message="m"))
    world.sink()
    world.erasures.erase(ME, "acme")
    world.say(thumb("c", message="n"))
    world.sink()
    with world.engine.begin() as connection:
        connection.execute(delete(tables.thumb_positions))
        connection.execute(delete(tables.exposure_positions))
    assert thumbs.catch_up(world.ledger, world.store, "feedback")
    assert experiments.catch_up(world.ledger, world.store, "turns")
    assert {row["message_id"] for row in world.all_of(tables.thumbs)} == {name("m"), name("n")}
    assert {row["principal"] for row in world.all_of(tables.thumbs)} == {ME, OTHER}
    assert world.current() == (2, 0)


def test_a_retracting_turn_is_no_exposure(world: SealingWorld) -> None:
    world.finish(turn(message="m"))
    world.sink()
    world.erasures.erase(ME, "acme")
    world.finish(erased("m"))
    world.sink()
    assert [row["erased"] for row in world.rows(Stream.TURNS)] == [False, True]
    assert world.current() == (0, 0)


def test_an_older_thumb_of_an_erased_user_never_returns(world: SealingWorld) -> None:
    world.say(thumb("a"), retraction("b"))
    world.sink()
    world.erasures.erase(ME, "acme")
    assert world.current() == (0, 0)


def plain(world: SealingWorld, request: str, caller: Caller = ADA) -> None:
    """Return an entry as written by the first version."""
    world.feedback.append([feedback_entry(correction(request, "plain words", caller=caller))])


def test_plain_events_of_the_first_version_are_erased_everywhere(
    world: SealingWorld,
) -> None:
    plain(world, "a")
    plain(world, "b", BOB)
    world.sink()
    (stream,) = world.all_of(tables.streams)
    assert (stream["sequence"], stream["plain_sequence"]) == (1, 1)
    plain(world, "c")
    plain(world, "d", BOB)
    erasure, is_new = world.erasures.erase(ME, "acme")
    assert (is_new, erasure.rewrite_us) == (True, None)
    world.sink()
    assert requests(world) == [
        correction("a").event_id,
        correction("b", caller=BOB).event_id,
        correction("d", caller=BOB).event_id,
    ]
    assert world.erasures.for_stream("feedback").through_sequence == 1


def test_sealed_segments_are_not_taken_for_plain_ones(world: SealingWorld) -> None:
    world.say(thumb("a"))
    world.sink()
    assert [row["plain_sequence"] for row in world.all_of(tables.streams)] == [0]


def test_commits_and_erasures_of_a_stream_are_serialised(world: SealingWorld) -> None:
    """A commit in progress delays an erasure.

    This includes the first commit, whose row does not exist before.
    """
    world.say(thumb("a"))
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()
    fold = thumbs.fold

    def slow(*arguments: object) -> None:
        inside.set()
        assert go_on.wait(5)
        fold(*arguments)

    sink, _ = world.sinks
    sink._fold = slow
    sink.assign()
    flushing = threading.Thread(target=sink.flush)
    flushing.start()
    assert inside.wait(5)

    def erase() -> None:
        world.erasures.erase(ME, "acme")
        done.set()

    erasing = threading.Thread(target=erase)
    erasing.start()
    assert not done.wait(0.3)
    go_on.set()
    flushing.join()
    erasing.join()
    assert done.is_set()
    assert len(world.rows()) == 1
    assert world.current() == (0, 0)
    assert world.erasures.for_stream("feedback").through_sequence == 1


def test_a_claimed_thumb_of_an_erased_user_is_not_counted(postgres_engine: Engine) -> None:
    claims = PostgresClaims(
        postgres_engine,
        "feedback",
        lambda entry: thumbs.change_of(decode_feedback(Record(0, 0, entry)), 0),
    )
    claims.claim([feedback_entry(thumb("a")), feedback_entry(thumb("b", caller=BOB))])
    Erasures(postgres_engine).erase(ME, "acme")
    with postgres_engine.begin() as connection:
        rows = connection.execute(select(tables.claims).order_by(tables.claims.c.principal)).all()
    assert [(row.principal, row.up) for row in rows] == [(OTHER, True), (None, None)]
    assert all(row.fingerprint for row in rows), "the claims themselves stay"


def test_on_sqlite_a_shredded_key_leaves_no_bytes_in_the_database(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "ledger.db")
    world = SealingWorld(tmp_path, engine)
    world.say(thumb("a"), thumb("b", caller=BOB))
    with engine.begin() as connection:
        query = select(tables.data_keys.c.wrapped_key).where(tables.data_keys.c.principal == ME)
        wrapped = connection.execute(query).scalar_one()

    def holds() -> list[str]:
        return [
            path.name
            for path in tmp_path.iterdir()
            if path.is_file() and bytes(wrapped) in path.read_bytes()
        ]

    assert holds() != []
    world.erasures.erase(ME, "acme")
    assert holds() == []
    world.close()
    engine.dispose()


def test_a_blocking_reader_keeps_the_sqlite_log_and_is_reported(tmp_path: Path) -> None:
    engine = open_sqlite(tmp_path / "ledger.db")
    with engine.connect() as reader:
        reader.execute(text("PRAGMA busy_timeout=0"))
        reader.execute(select(tables.streams)).all()
        with engine.begin() as connection:
            connection.execute(text("PRAGMA busy_timeout=0"))
            connection.execute(insert(tables.streams).values(stream="feedback", sequence=1))
            connection.execute(update(tables.streams).values(sequence=2))
        assert not scrub(engine)
    assert scrub(engine)
    engine.dispose()


class Ledger:
    """Ledger with prepared results; an exception is raised."""

    def __init__(self, *answers: PendingErasures | UnavailableError) -> None:
        self._answers, self.asked = list(answers), 0

    def pending(self) -> PendingErasures:
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, UnavailableError):
            raise answer
        return answer


def shown() -> tuple[float | None, float]:
    names = ("erasures_waiting", "erasure_oldest_waiting_seconds")
    waiting, oldest = (REGISTRY.get_sample_value(f"thumbwheel_feedback_{name}") for name in names)
    return waiting, oldest or 0.0


async def counted(ledger: Ledger, times: int) -> None:
    counting = asyncio.create_task(update_metrics_periodically(ledger, seconds=0.001))
    async with asyncio.timeout(10):
        while ledger.asked < times:
            await asyncio.sleep(0.001)
    counting.cancel()


async def test_the_age_of_the_oldest_erasure_grows_during_an_outage() -> None:
    since_us = time.time_ns() // 1_000 - 90_000_000
    await counted(Ledger(PendingErasures(2, since_us), UnavailableError("away")), 5)
    waiting, oldest = shown()
    assert waiting == 2
    assert 90 <= oldest < 150


async def test_without_pending_erasures_the_age_is_zero() -> None:
    await counted(Ledger(PendingErasures(1, 1), PendingErasures(0, None)), 3)
    assert shown() == (0, 0)
