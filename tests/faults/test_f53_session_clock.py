"""F53: the clock of session is an hour ahead when a user is erased.

A turn from before the erasure, delivered after it, seems to be newer. Its text is sealed under the
user's next key until session's retraction arrives; the next compaction removes its row.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.contracts.identifiers import principal_of
from services.feedback.__main__ import main
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.parquet import Row
from services.feedback.store.database import open_database
from tests.services.feedback.clients import Client, running
from tests.services.feedback.objects import decode
from tests.services.feedback.opened import opened
from tests.services.feedback.samples import ADA, KEY, MASTER, erased, name, turn

AHEAD_SECONDS = 3_600
ME = principal_of(KEY, ADA)


def finished(message: str, ahead_seconds: int) -> events_pb2.TurnEvent:
    """Return a turn that finished now by a clock with this error."""
    event = turn(f"the text of {message}", message)
    event.finish_time.FromSeconds(int(time.time()) + ahead_seconds)
    return event


async def readable(client: Client, row: Row) -> str:
    """Return the text of a row as training reads it, or nothing without a key."""
    answer = await client.call("GetDataKeys", feedback_pb2.GetDataKeysRequest(principals=[ME]))
    event = events_pb2.TurnEvent(
        event_id=row["event_id"], principal=row["principal"], sealed=row["sealed"]
    )
    return opened(event, answer.keys[ME].key).answer if event.sealed else ""


def compact(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `python -m services.feedback compact` on the stopped service's data."""
    values = {
        "principal_key": KEY,
        "master_key": MASTER,
        "spool_directory": root / "spool",
        "object_directory": root / "objects",
        "database_url": f"sqlite:///{root}/ledger.db",
        "compaction_settle_minutes": 0,
        "retired_minutes": 0,
    }
    for key, value in values.items():
        monkeypatch.setenv(f"TW_FEEDBACK_{key.upper()}", str(value))
    monkeypatch.setattr(sys, "argv", ["feedback", "compact"])
    assert main() == 0


def rows_of_turns(root: Path) -> list[Row]:
    """Return the rows of all objects, as readers get them."""
    engine = open_database(f"sqlite:///{root}/ledger.db")
    found = Ledger(engine).readable_segments("turns")
    engine.dispose()
    keys = [segment.object_key for segment in found if segment.object_key]
    return [row for key in keys for row in decode((root / "objects" / key).read_bytes())]


@pytest.mark.long
async def test_f53_a_turn_with_a_time_after_the_erasure_is_removed_by_its_retraction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    late, right = finished("late", AHEAD_SECONDS), finished("right", 0)
    async with running(tmp_path) as client:
        await client.append(finished("before", 0))
        await client.rows(feedback_pb2.STREAM_TURNS, 1)
        await client.call("ErasePrincipal", feedback_pb2.ErasePrincipalRequest())
        # Session's outbox delivers turns from before the erasure.
        await client.append(right, late)
        rows = {row["message_id"]: row for row in await client.rows(feedback_pb2.STREAM_TURNS, 2)}
        assert await readable(client, rows[name("late")]) == "the text of late", "the fault is void"
        assert name("right") not in rows, "with the right time the turn is a tombstone"
        # Session retracts all answers of the user's conversations.
        await client.append(*(erased(message) for message in ("before", "right", "late")))
        await client.rows(feedback_pb2.STREAM_TURNS, 5)
    compact(tmp_path, monkeypatch)
    left = rows_of_turns(tmp_path)
    assert {row["message_id"] for row in left} == {name(m) for m in ("before", "right", "late")}
    assert all(row["erased"] for row in left)
    sealed = bytes(rows[name("late")]["sealed"])  # type: ignore[arg-type]
    files = list((tmp_path / "objects").rglob("*.parquet"))
    assert files
    assert not [path for path in files if sealed in repr(decode(path.read_bytes())).encode()]
    record_property("fired", 1)
    record_property("clock_ahead_seconds", AHEAD_SECONDS)
