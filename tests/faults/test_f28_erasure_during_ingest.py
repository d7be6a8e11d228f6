"""F28: a user is erased repeatedly while sending feedback.

Events acknowledged before an erasure never return, events sent after the last erasure stay, and
another user loses no event. No byte on the disk ever contains the texts.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.audit import audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.principals.sealing import key_id_of
from services.feedback.spool.spool import inspect
from services.feedback.store import tables
from services.feedback.store.database import connect
from tests.services.feedback.clients import BOB, Client, running
from tests.services.feedback.objects import decode
from tests.services.feedback.opened import opened
from tests.services.feedback.samples import ADA, KEY, correction, thumb, turn

WRITERS, EVENTS_AT_LEAST = 4, 30
# CANARY is in every text and nowhere else. MARKER is in plain fields, to prove that the search
# works.
CANARY, MARKER = "canary-7f3a", "version-of-the-test"
ME, OTHER = principal_of(KEY, ADA), principal_of(KEY, BOB)
Interval = tuple[float, float]


@dataclass
class EventLog:
    """Times when each event was sent and acknowledged, and each erasure requested and answered."""

    events: dict[str, Interval] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    erasures: list[Interval] = field(default_factory=list)
    wrapped: set[bytes] = field(default_factory=set)

    def dead(self) -> set[str]:
        """Return events acknowledged before the last erasure was requested."""
        last = self.erasures[-1][0]
        return {
            event_id for event_id, (_, acknowledged) in self.events.items() if acknowledged < last
        }

    def alive(self) -> set[str]:
        """Return events sent after the last erasure was answered."""
        last = self.erasures[-1][1]
        return {event_id for event_id, (sent, _) in self.events.items() if sent > last}


class ByteSearch:
    """Repeated search of every byte under a folder, with Parquet also decoded to rows.

    The thread rests as long as a search takes. Otherwise a busy machine would starve the erasures,
    and each search would grow with the events written meanwhile.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._stopped = root, threading.Event()
        self.searches, self.marker_hits, self.found = 0, 0, list[str]()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "ByteSearch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.search()

    def _run(self) -> None:
        took = 0.0
        while not self._stopped.wait(max(took, 0.01)):
            began = time.monotonic()
            self.search()
            took = time.monotonic() - began

    def search(self) -> None:
        self.searches += 1
        for path in [path for path in self._root.rglob("*") if path.is_file()]:
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if path.suffix == ".parquet":
                data += repr(decode(data)).encode()
            self.marker_hits += MARKER.encode() in data
            if CANARY.encode() in data:
                self.found.append(str(path.relative_to(self._root)))


def feedback_event(number: int, caller: Caller) -> events_pb2.FeedbackEvent:
    if number % 2:
        event = correction(f"r{number}", f"{CANARY} {number}", f"m{number}", caller)
    else:
        event = thumb(f"r{number}", True, f"m{number}", caller)
        event.thumb.comment, event.model_version = f"{CANARY} {number}", MARKER
        event.thumb.reasons.append(CANARY)
    return event


def finished_turn(number: int) -> events_pb2.TurnEvent:
    event = turn(f"{CANARY} {number}", f"t{number}")
    event.context[0].text = event.original_text = CANARY
    event.finish_time.GetCurrentTime()
    return event


async def send_loop(
    client: Client, event_log: EventLog, numbers: Callable[[], int], is_over: asyncio.Event
) -> None:
    """Send feedback and turns of one user in a loop, interleaved with another user."""
    while not is_over.is_set():
        number = numbers()
        event = feedback_event(number, ADA)
        sent = time.monotonic()
        await client.record(event)
        event_log.events[event.event_id] = (sent, time.monotonic())
        sent, done = time.monotonic(), finished_turn(number)
        await client.append(done)
        event_log.events[done.event_id] = (sent, time.monotonic())
        other = feedback_event(number, BOB)
        await client.record(other, BOB)
        event_log.others.add(other.event_id)


async def erase_often(client: Client, event_log: EventLog, root: Path, erasures: int) -> None:
    engine = connect(f"sqlite:///{root}/ledger.db")
    for number in range(erasures):
        # Alternate between erasing right after an acknowledgement and after the commit of a row.
        await wait_until_sent(client, event_log, sunk=number % 2 == 1)
        with engine.begin() as connection:
            mine = select(tables.data_keys.c.wrapped_key).where(tables.data_keys.c.principal == ME)
            event_log.wrapped.update(map(bytes, connection.execute(mine).scalars()))
        asked = time.monotonic()
        await client.call("ErasePrincipal", feedback_pb2.ErasePrincipalRequest())
        event_log.erasures.append((asked, time.monotonic()))
    engine.dispose()


async def wait_until_sent(client: Client, event_log: EventLog, sunk: bool) -> None:
    feedback_event = len(event_log.events)
    while len(event_log.events) == feedback_event:
        await asyncio.sleep(0.001)
    if sunk:
        before = await rows_of_turns(client)
        while await rows_of_turns(client) == before:
            await asyncio.sleep(0.01)


async def rows_of_turns(client: Client) -> int:
    """Return the number of committed turn rows, all of this user."""
    request = feedback_pb2.ListSegmentsRequest(stream=feedback_pb2.STREAM_TURNS)
    return sum(segment.rows for segment in (await client.call("ListSegments", request)).segments)


async def ingest(root: Path, erasures: int) -> EventLog:
    event_log, is_over, numbers = EventLog(), asyncio.Event(), iter(range(1_000_000))
    async with running(root, flush_seconds=0.03) as client, asyncio.timeout(120):
        talking = [
            asyncio.create_task(send_loop(client, event_log, numbers.__next__, is_over))
            for _ in range(WRITERS)
        ]
        await erase_often(client, event_log, root, erasures)
        while len(event_log.alive()) < EVENTS_AT_LEAST:
            await asyncio.sleep(0.01)
        is_over.set()
        await asyncio.gather(*talking)
    return event_log


async def rows_and_keys(
    root: Path,
) -> tuple[dict[str, parquet.Row], dict[str, feedback_pb2.DataKey], int]:
    """Return rows by event, keys by principal, and the user's current thumbs after a restart."""
    async with running(root) as client:
        found = [
            *await client.rows(feedback_pb2.STREAM_FEEDBACK, 1),
            *await client.rows(feedback_pb2.STREAM_TURNS, 1),
        ]
        request = feedback_pb2.GetDataKeysRequest(principals=[ME, OTHER])
        keys = dict((await client.call("GetDataKeys", request)).keys)
        counts = await client.call("CountThumbs", feedback_pb2.CountThumbsRequest(), None)
    return (
        {str(row["event_id"]): row for row in found},
        keys,
        sum(count.up for count in counts.counts),
    )


def text_in(row: parquet.Row, key: bytes) -> str:
    kind = events_pb2.TurnEvent if "answer" in row else events_pb2.FeedbackEvent
    event = kind(event_id=row["event_id"], principal=row["principal"], sealed=row["sealed"])
    whole = opened(event, key)
    return (
        whole.answer
        if isinstance(whole, events_pb2.TurnEvent)
        else whole.thumb.comment or whole.correction.text
    )


@pytest.mark.parametrize("erasures", [4, pytest.param(12, marks=pytest.mark.long)])
async def test_feedback_before_an_erasure_is_gone_while_the_user_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any, erasures: int
) -> None:
    caplog.set_level(logging.INFO)
    with ByteSearch(tmp_path) as search:
        event_log = await ingest(tmp_path, erasures)
    rows, keys, standing = await rows_and_keys(tmp_path)
    mine = keys[ME]
    live = {
        event_id for event_id, row in rows.items() if key_id_of(bytes(row["sealed"])) == mine.key_id
    }

    assert len(event_log.dead()) >= EVENTS_AT_LEAST, "too little was said before"
    assert not event_log.dead() & live
    assert event_log.alive() <= live
    assert all(CANARY in text_in(rows[event_id], mine.key) for event_id in live)
    assert event_log.others <= rows.keys(), "another user lost something"
    assert all(CANARY in text_in(rows[event_id], keys[OTHER].key) for event_id in event_log.others)

    thumbs = {
        event_id for event_id in live | event_log.others if rows[event_id].get("kind") == "thumb"
    }
    assert standing == len(thumbs), (
        "a thumb of an erased event stands, or one of a living event does not"
    )
    struck_on_the_way = [event_id for event_id in event_log.dead() if event_id not in rows]
    assert struck_on_the_way, "no erasure met an event between its ack and its row"
    assert [event_id for event_id in event_log.dead() if event_id in rows], (
        "no erasure met an event that was a row"
    )

    assert (search.found, search.searches > 3, search.marker_hits > 3) == ([], True, True)
    assert CANARY not in caplog.text
    assert mine.key.hex() not in caplog.text
    record_property("fired", len(event_log.erasures))
    record_property("struck_between_ack_and_row", len(struck_on_the_way))
    record_property("shred_seconds_worst", round(check_ledger(tmp_path, event_log), 3))


def check_ledger(root: Path, event_log: EventLog) -> float:
    """Check offsets, erasures and key bytes; return the longest time from request to shred."""
    engine = connect(f"sqlite:///{root}/ledger.db")
    report = audit(
        Ledger(engine), Directory(root / "objects"), lambda stream: inspect(root / "spool" / stream)
    )
    assert report.problems == []
    with engine.begin() as connection:
        found = connection.execute(select(tables.erasures).order_by(tables.erasures.c.number)).all()
        exposed = connection.execute(select(tables.exposures.c.principal)).scalars().all()
    assert sum(segment.tombstones for segment in Ledger(engine).segments(Stream.TURNS))
    engine.dispose()
    assert [row.number for row in found] == list(range(1, len(found) + 1))
    assert len(found) > len(event_log.erasures) / 2, "erasures met nothing new"
    assert exposed == [ME], "the turns after the last erasure"
    worst_us: int = max(row.shred_us - row.request_us for row in found)
    assert worst_us < 5_000_000, "D7"
    assert event_log.wrapped, "no key was seen"
    files = [path.read_bytes() for path in root.iterdir() if path.name.startswith("ledger.db")]
    assert not [wrapped for wrapped in event_log.wrapped if any(wrapped in data for data in files)]
    return worst_us / 1_000_000
