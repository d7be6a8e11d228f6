"""Which thumb stands: in the spool, in the ledger, between the two, after a restart, and rebuilt
from the objects.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete
from thumbwheel.feedback.v1 import events_pb2

from services.chassis.identity import Caller
from services.feedback import codec, tables
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.principals.principal import principal_of
from services.feedback.projections.overlay import Overlay
from services.feedback.projections.thumbs import ThumbCount, Thumbs, catch_up, change_of, fold
from services.feedback.sink.sink import FlushLimits, Sink
from services.feedback.spool.spool import Spool
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
    """Spool, sink and thumbs as the service wires them."""

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
    """Says events in turn, with each way in which spool and ledger may share them."""

    def said(*messages: events_pb2.FeedbackEvent) -> None:
        for number, message in enumerate(messages):
            service.say(message)
            if request.param in ("in the ledger", "in both") or (
                request.param == "first sunk" and number == 0
            ):
                service.sink_all(trim=request.param != "in both")

    return said


async def test_a_thumb_stands_for_its_user_on_its_message(say, service: Service) -> None:
    say(thumb("a", up=True, message="m"), thumb("b", up=False, message="n"))
    assert await service.current("m", "n", "other") == {"m": True, "n": False}
    assert await service.current("m", "n", caller=BOB) == {}


async def test_the_second_thumb_stands_and_is_counted_once(say, service: Service) -> None:
    say(thumb("a", up=True), thumb("b", up=False))
    assert await service.current("m") == {"m": False}
    assert await service.thumbs.count(0) == [ThumbCount("v1", "stable", 0, 1)]


async def test_the_last_in_the_log_stands_whatever_the_clocks_said(say, service: Service) -> None:
    say(thumb("a", up=True, at=9_000), thumb("b", up=False, at=10))
    assert await service.current("m") == {"m": False}


async def test_a_retraction_removes_the_thumb_and_a_later_one_stands_again(
    say, service: Service
) -> None:
    say(thumb("a"), retraction("b"))
    assert await service.current("m") == {}
    assert await service.thumbs.count(0) == []
    say(thumb("c", up=False))
    assert await service.current("m") == {"m": False}


async def test_corrections_and_their_retraction_leave_the_thumb(say, service: Service) -> None:
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


async def test_a_thumb_that_moves_to_another_version_leaves_the_first(
    say, service: Service
) -> None:
    moved = thumb("b")
    moved.model_version = "v2"
    say(thumb("a"), moved)
    assert await service.thumbs.count(0) == [ThumbCount("v2", "stable", 1, 0)]


async def test_a_record_that_cannot_be_read_moves_no_thumb(service: Service) -> None:
    service.overlay.add(
        codec.decoded_feedback(
            service.spool.append([garbage("x"), codec.feedback_entry(thumb("a"))])
        )
    )
    assert await service.current("m") == {"m": True}


async def test_after_a_restart_both_parts_are_there(tmp_path: Path) -> None:
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
