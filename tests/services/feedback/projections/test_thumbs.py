"""Current thumbs: in the spool, in the ledger, in both, after a restart, and rebuilt."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.projections.current_feedback import Overlay
from services.feedback.projections.thumbs import ThumbCount, Thumbs, catch_up, change_of, fold
from services.feedback.sink import FlushLimits, Sink
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import (
    ADA,
    FEEDBACK,
    KEY,
    correction,
    garbage,
    name,
    retraction,
    thumb,
    ups,
)

BOB = Caller("acme", "bob")
ROOM = 1 << 20


class Service:
    """Spool, sink and thumbs, wired like the service."""

    def __init__(self, root: Path) -> None:
        self.engine = open_sqlite(root / "ledger.db")
        self.ledger, self.store = Ledger(self.engine), Directory(root / "objects")
        self.spool = Spool(root / "spool", max_bytes=ROOM, segment_bytes=ROOM)
        self.rebuilt = catch_up(self.ledger, self.store, "feedback")
        self.sink = Sink(
            FEEDBACK, self.spool, self.store, self.ledger, FlushLimits(100, ROOM), fold
        )
        self.sink.assign()
        self.overlay = Overlay(change_of)
        self.overlay.add(codec.decoded_feedback(self.spool.read(self.sink.position, 1_000, ROOM)))
        self.thumbs = Thumbs(self.engine, self.overlay)

    def say(self, *messages: events_pb2.FeedbackEvent) -> None:
        self.overlay.add(
            codec.decoded_feedback(
                self.spool.append([codec.feedback_entry(message) for message in messages])
            )
        )

    def sink_all(self, trim: bool = True) -> None:
        self.sink.flush()
        if trim:
            self.overlay.trim(self.sink.position)

    async def current(self, *messages: str, caller: Caller = ADA) -> dict[str, bool]:
        found = await ups(
            self.thumbs, principal_of(KEY, caller), [name(message) for message in messages]
        )
        return {message: found[name(message)] for message in messages if name(message) in found}

    def close(self) -> None:
        self.spool.close()
        self.engine.dispose()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


@pytest.fixture(params=["in the spool", "in the ledger", "in both", "first sunk"])
def say(request: pytest.FixtureRequest, service: Service):
    """Store events in turn, for each split between spool and ledger."""

    def said(*messages: events_pb2.FeedbackEvent) -> None:
        for number, message in enumerate(messages):
            service.say(message)
            if request.param in ("in the ledger", "in both") or (
                request.param == "first sunk" and number == 0
            ):
                service.sink_all(trim=request.param != "in both")

    return said


async def test_a_thumb_is_current_for_its_user_and_message(say, service: Service) -> None:
    say(thumb("a", up=True, message="m"), thumb("b", up=False, message="n"))
    assert await service.current("m", "n", "other") == {"m": True, "n": False}
    assert await service.current("m", "n", caller=BOB) == {}


async def test_the_second_thumb_replaces_the_first_and_counts_once(say, service: Service) -> None:
    say(thumb("a", up=True), thumb("b", up=False))
    assert await service.current("m") == {"m": False}
    assert await service.thumbs.count(0) == [ThumbCount("v1", "stable", 0, 1)]


async def test_the_last_in_the_log_wins_regardless_of_clocks(say, service: Service) -> None:
    say(thumb("a", up=True, at=9_000), thumb("b", up=False, at=10))
    assert await service.current("m") == {"m": False}


async def test_a_retraction_removes_the_thumb_until_a_later_one(say, service: Service) -> None:
    say(thumb("a"), retraction("b"))
    assert await service.current("m") == {}
    assert await service.thumbs.count(0) == []
    say(thumb("c", up=False))
    assert await service.current("m") == {"m": False}


async def test_corrections_do_not_change_the_thumb(say, service: Service) -> None:
    say(thumb("a"), correction("b"), retraction("c", kind="correction"))
    assert await service.current("m") == {"m": True}


async def test_counts_are_by_version_arm_and_time(say, service: Service) -> None:
    candidate = thumb("c", up=False, message="o", at=3_000)
    candidate.model_version, candidate.arm = "v2", "candidate"
    say(
        thumb("a", at=1_000),
        thumb("b", message="n", at=2_000),
        candidate,
        thumb("d", caller=BOB, at=2_500),
    )
    stable, new = ThumbCount("v1", "stable", 3, 0), ThumbCount("v2", "candidate", 0, 1)
    assert await service.thumbs.count(0) == [stable, new]
    assert await service.thumbs.count(2_000_000_000) == [ThumbCount("v1", "stable", 2, 0), new]
    assert await service.thumbs.count(2_600_000_000) == [new]


async def test_a_thumb_moved_to_another_version_leaves_the_first(say, service: Service) -> None:
    moved = thumb("b")
    moved.model_version = "v2"
    say(thumb("a"), moved)
    assert await service.thumbs.count(0) == [ThumbCount("v2", "stable", 1, 0)]


async def test_an_undecodable_record_changes_no_thumb(service: Service) -> None:
    service.overlay.add(
        codec.decoded_feedback(
            service.spool.append([garbage("x"), codec.feedback_entry(thumb("a"))])
        )
    )
    assert await service.current("m") == {"m": True}


async def test_table_and_overlay_are_complete_after_a_restart(tmp_path: Path) -> None:
    service = Service(tmp_path)
    service.say(thumb("a", message="sunk"), thumb("b", message="changed"))
    service.sink_all()
    service.say(thumb("c", up=False, message="changed"), thumb("d", message="spooled"))
    service.close()
    service = Service(tmp_path)
    assert not service.rebuilt
    assert await service.current("sunk", "changed", "spooled") == {
        "sunk": True,
        "changed": False,
        "spooled": True,
    }
    service.close()


@pytest.mark.parametrize("lost", [tables.thumbs, tables.thumb_positions])
async def test_a_lost_table_is_rebuilt_from_the_committed_objects(tmp_path: Path, lost) -> None:
    service = Service(tmp_path)
    service.say(thumb("a", message="m"), thumb("b", message="n"))
    service.sink_all()
    service.say(retraction("c", message="n"), thumb("d", up=False, message="o"), correction("e"))
    service.sink_all()
    with service.engine.begin() as connection:
        connection.execute(delete(tables.thumb_positions))
        connection.execute(delete(lost))
    service.close()
    service = Service(tmp_path)
    assert service.rebuilt
    assert await service.current("m", "n", "o") == {"m": True, "o": False}
    assert await service.thumbs.count(1) == [ThumbCount("v1", "stable", 1, 1)]
    service.close()


async def test_more_messages_than_one_query_takes_are_all_found(service: Service) -> None:
    names = [f"m{number}" for number in range(700)]
    service.say(*(thumb(f"r{message}", message=message) for message in names[:600]))
    while service.spool.end_offset > service.sink.position:
        service.sink_all()
    service.say(*(thumb(f"r{message}", message=message) for message in names[600:]))
    assert await service.current(*names) == dict.fromkeys(names, True)
    assert await service.thumbs.count(0) == [ThumbCount("v1", "stable", 700, 0)]
