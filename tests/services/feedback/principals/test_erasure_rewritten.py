"""Compaction after an erasure: rows leave the objects, and the erasure is marked as done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.compaction.compaction import Compaction
from services.feedback.compaction.compactors import Compactors
from services.feedback.events import Stream
from services.feedback.lake.audit import audit
from services.feedback.projections import remarks, thumbs
from services.feedback.spool.spool import inspect
from services.feedback.store import tables
from services.feedback.wire import feedback_entry
from tests.services.feedback.compacted import OPTIONS
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import (
    ADA,
    KEY,
    RAE,
    correction,
    ranking,
    rated,
    thumb,
    turn,
)
from tests.services.feedback.sealing_world import SealingWorld

BOB = Caller("acme", "bob")
ME = principal_of(KEY, ADA)


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[SealingWorld]:
    world = SealingWorld(tmp_path, engine)
    yield world
    world.close()


def compact(world: SealingWorld) -> None:
    for stream in Stream:
        assert Compaction(
            world.ledger, Compactors(world.engine), world.store, world.erasures, OPTIONS
        ).run(stream)


def stored(world: SealingWorld) -> set[str]:
    """Return event ids in all existing objects, readable or not."""
    keys = [item.key for stream in Stream for item in world.store.list(f"{stream}/")]
    return {str(row["event_id"]) for key in keys for row in decode(world.store.get(key))}


def test_sealed_and_plain_rows_of_an_erased_user_leave_the_objects(world: SealingWorld) -> None:
    world.feedback.append(
        [feedback_entry(correction("old", "plain words")), feedback_entry(thumb("b", caller=BOB))]
    )
    world.sink()
    world.say(correction("new", "sealed words"), thumb("c", caller=BOB, message="n"))
    world.finish(turn(message="m"))
    world.sink()
    erasure, _ = world.erasures.erase(ME, "acme")
    world.say(thumb("after"))
    world.sink()
    compact(world)
    assert world.erasures.get(ME, erasure.erasure_id).rewrite_us is not None
    assert world.erasures.for_stream("feedback").through_sequence is None
    served = [item for stream in Stream for item in world.ledger.readable_segments(stream)]
    living = {
        thumb("b", caller=BOB).event_id,
        thumb("c", caller=BOB).event_id,
        thumb("after").event_id,
    }
    assert (sum(item.rows for item in served), stored(world)) == (3, living)
    report = audit(world.ledger, world.store, lambda stream: inspect(world.root / "spool" / stream))
    assert report.problems == []
    before = world.all_of(tables.thumbs)
    with world.engine.begin() as connection:
        connection.execute(delete(tables.thumb_positions))
    assert thumbs.catch_up(world.ledger, world.store, "feedback")
    assert sorted(map(str, world.all_of(tables.thumbs))) == sorted(map(str, before))
    assert len(before) == 3


def judged() -> list[events_pb2.FeedbackEvent]:
    """Return feedback of a user, and of a reviewer on the answers of the user."""
    return [
        ranking("vote"),
        rated(correction("written", "words of the reviewer")),
        ranking("ranked", ("m", 1), ("an own text", 2), rater=RAE),
        ranking("of bob", caller=BOB, rater=RAE),
    ]


@pytest.mark.parametrize(
    ("erased", "living"),
    [(ADA, {"of bob"}), (RAE, {"vote"}), (BOB, {"vote", "written", "ranked"})],
)
def test_the_erasure_of_user_or_reviewer_removes_the_rows(
    world: SealingWorld, erased: Caller, living: set[str]
) -> None:
    said = dict(zip(("vote", "written", "ranked", "of bob"), judged(), strict=True))
    world.say(said["vote"], said["written"])
    world.sink()
    # In the write-ahead log, not yet in the table.
    world.say(said["ranked"], said["of bob"])
    erasure, _ = world.erasures.erase(principal_of(KEY, erased), "acme")
    world.sink()
    waited = {said["ranked"].event_id, said["of bob"].event_id}
    remaining = {said[request].event_id for request in living}
    assert {row["event_id"] for row in world.rows()} & waited == remaining & waited
    compact(world)
    assert stored(world) == remaining
    rows = [
        row
        for item in world.ledger.readable_segments("feedback")
        if item.object_key
        for row in decode(world.store.get(item.object_key))
    ]
    assert not {row["principal"] for row in rows} & {erasure.principal}
    assert not {row["rater"] for row in rows} & {erasure.principal}
    found = world.erasures.get(erasure.principal, erasure.erasure_id)
    assert found.rewrite_us is not None


def test_feedback_of_reviewers_and_rankings_are_no_thumbs_or_remarks(world: SealingWorld) -> None:
    world.say(*judged(), rated(thumb("x")))
    world.sink()
    assert world.all_of(tables.thumbs) == world.all_of(tables.remarks) == []
    # A rebuild from the objects follows the same rule.
    for positions, rebuilt in (
        (tables.thumb_positions, thumbs),
        (tables.remark_positions, remarks),
    ):
        with world.engine.begin() as connection:
            connection.execute(delete(positions))
        assert rebuilt.catch_up(world.ledger, world.store, "feedback")
    assert world.all_of(tables.thumbs) == world.all_of(tables.remarks) == []


def test_a_pass_without_erasures_keeps_replaced_objects_for_the_delay(world: SealingWorld) -> None:
    for request in "ab":
        world.say(thumb(request, message=request))
        world.sink()
    compact(world)
    assert [item.sequence for item in world.ledger.readable_segments("feedback")] == [2]
