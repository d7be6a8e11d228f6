"""Current thumbs with several replicas: the last in the order of acceptance wins."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete
from thumbwheel.feedback.v1 import events_pb2

from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.projections.current_feedback import Overlay
from services.feedback.projections.thumbs import (
    ThumbCount,
    Thumbs,
    UserCount,
    catch_up,
    change_of,
    fold,
)
from services.feedback.sink import FlushLimits, Sink
from services.feedback.spool.claims import PostgresClaims
from services.feedback.spool.log import Entry, Record
from services.feedback.store import tables
from tests.services.feedback.samples import ADA, FEEDBACK, KEY, name, retraction, thumb, ups

PRINCIPAL = principal_of(KEY, ADA)
M = name("m")
NOBODY_WAITS = Overlay(change_of)


class Partition:
    """Log of relayed records."""

    def __init__(self, partition: int, entries: Sequence[Entry]) -> None:
        self.topic_id, self.partition = "topic", partition
        self._records = [Record(offset, 1, entry) for offset, entry in enumerate(entries)]

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        return self._records[start : start + max_records]

    def trim(self, before: int) -> None:
        pass


def accepted(order: int, message: events_pb2.FeedbackEvent) -> Entry:
    return replace(codec.feedback_entry(message), accept_order=order)


def sink_all(engine: Engine, root: Path, *logs: Partition, rows: int = 100) -> None:
    for log in logs:
        sink = Sink(
            FEEDBACK, log, Directory(root), Ledger(engine), FlushLimits(rows, 1 << 20), fold
        )
        sink.assign()
        while sink.flush():
            pass


def said(message: str = "m") -> list[Entry]:
    """Thumb up, thumb down, retraction, and thumb up, in the order of acceptance."""
    events = [
        thumb(f"a{message}", message=message),
        thumb(f"b{message}", up=False, message=message),
        retraction(f"c{message}", message=message),
        thumb(f"d{message}", message=message),
    ]
    return [accepted(order, event) for order, event in enumerate(events, start=1)]


@pytest.mark.parametrize("rows", [5, 100])
async def test_the_last_accepted_thumb_wins_in_any_order_of_arrival(
    sqlite_engine: Engine, tmp_path: Path, rows: int
) -> None:
    orders = list(itertools.permutations(range(4)))
    entries = [said(f"m{number}")[place] for number, order in enumerate(orders) for place in order]
    sink_all(sqlite_engine, tmp_path, Partition(0, entries), rows=rows)
    messages = [name(f"m{number}") for number in range(len(orders))]
    assert await ups(Thumbs(sqlite_engine, NOBODY_WAITS), PRINCIPAL, messages) == dict.fromkeys(
        messages, True
    )


async def test_partitions_and_rebuilds_give_the_same_thumb(engine: Engine, tmp_path: Path) -> None:
    sink_all(engine, tmp_path, Partition(0, said()[2:3]), Partition(1, said()[:2]))
    thumbs = Thumbs(engine, NOBODY_WAITS)
    assert await ups(thumbs, PRINCIPAL, [M]) == {}
    assert await thumbs.count(0) == []
    with engine.begin() as connection:
        connection.execute(delete(tables.thumb_positions))
    assert catch_up(Ledger(engine), Directory(tmp_path), "feedback")
    assert await ups(thumbs, PRINCIPAL, [M]) == {}
    sink_all(engine, tmp_path, Partition(2, said()[3:]))
    assert await ups(thumbs, PRINCIPAL, [M]) == {M: True}
    assert await thumbs.count(0) == [ThumbCount("v1", "stable", 1, 0)]
    assert await thumbs.count_users(0) == {("v1", "stable"): UserCount({(1, 0): 1})}
    assert await thumbs.count_users(1) == {}  # the ids of the samples have no time
    assert not catch_up(Ledger(engine), Directory(tmp_path), "feedback")


def claims_on(engine: Engine) -> PostgresClaims:
    return PostgresClaims(
        engine, "feedback", lambda entry: change_of(codec.decode_feedback(Record(0, 0, entry)), 0)
    )


async def test_a_thumb_acknowledged_by_another_replica_is_visible_before_the_sink(
    postgres_engine: Engine, tmp_path: Path
) -> None:
    here, there = claims_on(postgres_engine), claims_on(postgres_engine)
    thumbs = Thumbs(postgres_engine, here)
    first, last = codec.feedback_entry(thumb("a")), codec.feedback_entry(thumb("b", up=False))
    first_order = there.claim([first])[first.event_id].accept_order
    assert await ups(thumbs, PRINCIPAL, [M]) == {M: True}
    last_order = there.claim([last])[last.event_id].accept_order
    assert await ups(thumbs, PRINCIPAL, [M]) == {M: False}
    assert await thumbs.count(0) == [ThumbCount("v1", "stable", 0, 1)]
    assert await thumbs.count_users(0) == {("v1", "stable"): UserCount({(0, 1): 1})}

    # The second event is sunk first. The claim of the first is older than the table and has no
    # effect.
    sink_all(postgres_engine, tmp_path, Partition(0, [replace(last, accept_order=last_order)]))
    assert await ups(thumbs, PRINCIPAL, [M]) == {M: False}
    assert await thumbs.count(0) == [ThumbCount("v1", "stable", 0, 1)]
    sink_all(postgres_engine, tmp_path, Partition(1, [replace(first, accept_order=first_order)]))
    assert await ups(thumbs, PRINCIPAL, [M]) == {M: False}

    gone = codec.feedback_entry(retraction("c"))
    there.claim([gone])
    assert await ups(thumbs, PRINCIPAL, [M]) == {}
    assert await thumbs.count(0) == []
