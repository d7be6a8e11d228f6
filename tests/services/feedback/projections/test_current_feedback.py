"""Remarks on deleted conversations: removed at once, or by the next compaction if late.

Late remarks are never shown.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.compaction.compaction import Compaction
from services.feedback.compaction.compactors import Compactors
from services.feedback.events import Stream, Words
from services.feedback.lake.audit import audit
from services.feedback.projections import experiments, remarks
from services.feedback.projections.remarks import NoPendingRemarks, Remarks
from services.feedback.sink import FlushLimits, Sink
from services.feedback.spool.spool import inspect
from services.feedback.store import tables
from tests.services.feedback.compacted import OPTIONS
from tests.services.feedback.samples import ADA, KEY, TURNS, correction, erased, name, turn
from tests.services.feedback.sealing_world import SealingWorld

ME = principal_of(KEY, ADA)
BOB = Caller("acme", "bob")


@pytest.fixture
def world(tmp_path: Path, engine: Engine) -> Iterator[SealingWorld]:
    world = SealingWorld(tmp_path, engine)
    yield world
    world.close()


async def shown(world: SealingWorld, principal: str = ME) -> dict[str, Words]:
    said = Remarks(world.engine, NoPendingRemarks(), world.keys, codec.decode_words)
    return await said.get(principal, [name("m"), name("n")], {})


def kept(world: SealingWorld) -> list[tuple[str, str]]:
    return sorted((row["principal"], row["message_id"]) for row in world.all_of(tables.remarks))


def compact(world: SealingWorld) -> None:
    for stream in Stream:
        done = Compaction(
            world.ledger, Compactors(world.engine), world.store, world.erasures, OPTIONS
        ).run(stream)
        assert done
        assert done.complete
    assert (
        audit(
            world.ledger, world.store, lambda stream: inspect(world.root / "spool" / stream)
        ).problems
        == []
    )


async def test_remarks_are_deleted_in_the_commit_of_the_retracting_turn(
    world: SealingWorld,
) -> None:
    world.say(correction("a", "wrong"), correction("b", "right", message="n"))
    world.finish(turn(), turn(message="n"))
    world.sink()
    assert len(kept(world)) == 2
    world.finish(erased("m"))
    world.sink()
    assert kept(world) == [(ME, name("n"))]
    assert await shown(world) == {name("n"): Words(correction="right")}
    assert world.current()[1] == 1, "who met the version is still counted"


async def test_late_remarks_are_hidden_and_removed_with_their_row(
    world: SealingWorld,
) -> None:
    world.finish(erased("m"))
    world.sink()
    world.say(
        correction("a", "wrong"),
        correction("b", "right", message="n"),
        correction("c", "odd", caller=BOB),
    )
    world.sink()
    assert len(kept(world)) == 3
    assert await shown(world) == {name("n"): Words(correction="right")}
    assert await shown(world, principal_of(KEY, BOB)) == {}
    compact(world)
    assert kept(world) == [(ME, name("n"))]


async def test_remarks_left_by_an_older_sink_are_hidden_and_removed(
    world: SealingWorld,
) -> None:
    world.say(correction("a", "wrong"))
    world.sink()
    compact(world)
    world.finish(erased("m"))
    older = Sink(
        TURNS, world.turns, world.store, world.ledger, FlushLimits(100, 1 << 20), experiments.fold
    )
    older.assign()
    older.flush()
    assert (kept(world), await shown(world)) == ([(ME, name("m"))], {})
    compact(world)
    assert kept(world) == []


async def test_a_rebuilt_table_has_no_remarks_on_retracted_answers(world: SealingWorld) -> None:
    world.say(correction("a", "wrong"), correction("b", "right", message="n"))
    world.finish(erased("m"))
    world.sink()
    with world.engine.begin() as connection:
        connection.execute(delete(tables.remark_positions))
    assert remarks.catch_up(world.ledger, world.store, "feedback")
    assert kept(world) == [(ME, name("n"))]
