"""Remarks: visible at once, after a restart and an upgrade, only to their user.

An erasure removes them.
"""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback import wire as codec
from services.feedback.events import Words
from services.feedback.lake import parquet
from services.feedback.projections import thumbs
from services.feedback.projections.current_feedback import CurrentFeedback
from services.feedback.projections.expiry import expire
from services.feedback.projections.remarks import (
    NoPendingRemarks,
    Remark,
    Remarks,
    change_of,
    change_of_row,
)
from services.feedback.spool.claims import PostgresClaims
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import open_database
from tests.services.feedback.clients import BOB, Client, running
from tests.services.feedback.samples import ADA, KEY, correction, name, retraction, thumb
from tests.services.feedback.sealing_world import SealingWorld

ME = principal_of(KEY, ADA)
DAY_US = 86_400_000_000


def reasoned(request: str, *reasons: str, comment: str = "", caller: Caller = ADA, at: int = 1_000):
    event = thumb(request, up=False, caller=caller, at=at)
    event.thumb.reasons.extend(reasons)
    event.thumb.comment = comment
    return event


async def words(client: Client, caller: Caller = ADA) -> feedback_pb2.Words | None:
    request = feedback_pb2.GetThumbsRequest(message_ids=[name("m"), name("n")])
    return (await client.call("GetThumbs", request, caller)).words.get(name("m"))


async def sunk(client: Client, at_least: int) -> None:
    await client.rows(feedback_pb2.STREAM_FEEDBACK, at_least)


@pytest.mark.parametrize("flush_seconds", [0.05, 60], ids=["in the ledger", "in the spool"])
async def test_remarks_are_visible_only_to_their_user(tmp_path: Path, flush_seconds: float) -> None:
    async with running(tmp_path, flush_seconds=flush_seconds) as client:
        await client.record(reasoned("a", "wrong", "rude", comment="no, grün", at=1_001))
        await client.record(correction("b", "42"))
        if flush_seconds < 1:
            await sunk(client, 2)
        current = feedback_pb2.Words(reasons=["wrong", "rude"], comment="no, grün", correction="42")
        assert await words(client) == current
        assert await words(client, BOB) is None
    # Waiting events are sunk at the end; the next process reads the table.
    async with running(tmp_path, flush_seconds=60) as client:
        assert await words(client) == current


async def test_the_last_remark_wins_and_can_be_retracted(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(reasoned("a", "wrong", at=1_001))
        await client.record(correction("b", "41"))
        await sunk(client, 2)
        await client.record(thumb("c", up=True, at=1_002))
        await client.record(correction("d", "42"))
        assert await words(client) == feedback_pb2.Words(correction="42"), (
            "reasons were for a thumb that stands no more"
        )
        await sunk(client, 4)
        assert await words(client) == feedback_pb2.Words(correction="42")
        await client.record(retraction("e", kind="correction"))
        assert await words(client) is None
        await client.record(reasoned("f", "rude", at=1_003))
        assert await words(client) == feedback_pb2.Words(reasons=["rude"])
        await client.record(retraction("g"))
        assert await words(client) is None
        await sunk(client, 7)
        assert await words(client) is None


@pytest.mark.parametrize("flush_seconds", [0.05, 60], ids=["in the ledger", "in the spool"])
async def test_an_erasure_removes_remarks_and_later_ones_stay(
    tmp_path: Path, flush_seconds: float
) -> None:
    async with running(tmp_path, flush_seconds=flush_seconds) as client:
        await client.record(correction("a", "42"))
        await client.record(correction("b", "43", caller=BOB), BOB)
        if flush_seconds < 1:
            await sunk(client, 2)
        await client.call("ErasePrincipal", feedback_pb2.ErasePrincipalRequest())
        assert await words(client) is None
        assert await words(client, BOB) == feedback_pb2.Words(correction="43")
        await client.record(correction("c", "44"))
        assert await words(client) == feedback_pb2.Words(correction="44")


async def test_remarks_from_before_the_upgrade_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(correction("a", "42"))
        await sunk(client, 1)
    connection = sqlite3.connect(tmp_path / "ledger.db")
    connection.executescript("""
        DROP TABLE remarks; DROP TABLE remark_positions; DROP TABLE spools;
        ALTER TABLE compactors DROP COLUMN taken_back_sequence;
        ALTER TABLE compactors DROP COLUMN taken_back_epoch;
        ALTER TABLE streams DROP COLUMN signed_since_us;
        UPDATE feedback_revision SET version_num = '0005';
    """)
    connection.close()
    async with running(tmp_path) as client:
        assert await words(client) == feedback_pb2.Words(correction="42")


async def test_the_table_holds_no_plain_text_and_no_bytes_for_a_bare_thumb(tmp_path: Path) -> None:
    async with running(tmp_path) as client:
        await client.record(correction("a", "a canary of words"))
        await client.record(thumb("b", message="n"))
        await sunk(client, 2)
        engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
        with engine.connect() as connection:
            rows = {row.subject: row.sealed for row in connection.execute(select(tables.remarks))}
        engine.dispose()
        assert rows.keys() == {"thumb", "correction"}
        assert rows["thumb"] == b""
        assert b"canary" not in rows["correction"]


async def test_remarks_expire_with_the_rows_of_the_objects(tmp_path: Path) -> None:
    async with running(tmp_path, keep_days=1) as client:
        await client.record(correction("a", "42"))
        await sunk(client, 1)
        assert await words(client) == feedback_pb2.Words(correction="42")
    async with running(tmp_path, keep_days=1) as client:
        async with asyncio.timeout(30):
            # The event's accept time is in 1970.
            while await words(client):
                await asyncio.sleep(0.02)


def test_newer_remarks_do_not_expire(engine: Engine) -> None:
    with engine.begin() as connection:
        for at, message in ((DAY_US - 1, "old"), (DAY_US, "new")):
            row = {
                "principal": ME,
                "message_id": message,
                "subject": "thumb",
                "event_id": message,
                "sealed": b"",
            }
            connection.execute(tables.remarks.insert().values(row | {"accept_us": at}))
    expire(engine, DAY_US)
    with engine.begin() as connection:
        assert connection.execute(select(tables.remarks.c.message_id)).scalars().all() == ["new"]


async def test_on_postgres_remarks_appear_with_the_commit_and_only_with_their_thumb(
    postgres_engine: Engine, tmp_path: Path
) -> None:
    world = SealingWorld(tmp_path, postgres_engine)
    claims = PostgresClaims(postgres_engine, "feedback", _change)
    worded = Remarks(postgres_engine, NoPendingRemarks(), world.keys, codec.decode_words)
    current = CurrentFeedback(thumbs.Thumbs(postgres_engine, claims), worded)

    async def words() -> Words | None:
        return (await current.of_principal(ME, [name("m")]))[1].get(name("m"))

    world.say(reasoned("a", "wrong", at=1_001))
    assert await words() is None
    world.sink()
    assert await words() == Words(("wrong",))
    claims.claim([codec.feedback_entry(thumb("b", up=True, at=1_002))])
    assert await words() is None
    with postgres_engine.begin() as connection:
        assert connection.execute(select(func.count()).select_from(tables.remarks)).scalar() == 1
    world.close()


def _change(entry):
    return thumbs.change_of(codec.decode_feedback(Record(0, 0, entry)), 0)


def test_an_older_remark_never_replaces_a_newer_one() -> None:
    older, newer = Remark("a", b"", 5, accept_order=1), Remark("b", b"", 4, accept_order=2)
    assert newer.replaces(older)
    assert not older.replaces(newer)


def test_a_signal_changes_no_remark_and_no_thumb() -> None:
    event = codec.feedback_from(events_pb2.FeedbackEvent(signal={"kind": "copied"}))
    assert change_of(event, 0) is None
    assert change_of_row(parquet.feedback_row(event)) is None
    assert thumbs.change_of(event, 0) is None


def test_an_event_without_a_value_changes_no_remark() -> None:
    assert change_of(codec.feedback_from(events_pb2.FeedbackEvent()), 0) is None
