"""Compaction after an erasure: rows leave the objects, and the erasure is marked as done."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.compaction.compaction import Compaction
from services.feedback.compaction.compactors import Compactors
from services.feedback.events import Stream
from services.feedback.lake.audit import audit
from services.feedback.projections import thumbs
from services.feedback.spool.spool import inspect
from services.feedback.store import tables
from services.feedback.wire import feedback_entry
from tests.services.feedback.compacted import OPTIONS
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import ADA, KEY, correction, thumb, turn
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


def test_a_pass_without_erasures_keeps_replaced_objects_for_the_delay(world: SealingWorld) -> None:
    for request in "ab":
        world.say(thumb(request, message=request))
        world.sink()
    compact(world)
    assert [item.sequence for item in world.ledger.readable_segments("feedback")] == [2]
