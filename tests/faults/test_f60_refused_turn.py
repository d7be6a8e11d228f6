"""F60: a damaged page of feedback's database makes one turn record fail at every attempt.

The record is set aside. The turns behind it, and the retraction of a deleted conversation, reach
the feedback table.
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from thumbwheel.session.v1 import session_pb2

from services.contracts.identifiers import ERASED, FINISHED, turn_event_id
from tests.faults.feedback import ReplicaProcess, Stack, wait_until
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import KEY
from tests.services.session.service import ADA, Home, begin, finish, session_service, talk

# Every insert of one key fails with the error of a damaged index.
DAMAGE = """
CREATE FUNCTION damaged() RETURNS trigger AS $$ BEGIN
    IF NEW.event_id = '{event_id}' THEN
        RAISE EXCEPTION 'invalid page' USING ERRCODE = 'data_corrupted';
    END IF;
    RETURN NEW;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER damaged BEFORE INSERT ON claims FOR EACH ROW EXECUTE FUNCTION damaged()
"""


def refused_turns() -> float:
    return REGISTRY.get_sample_value("thumbwheel_session_turns_refused_total") or 0.0


def event_ids(stack: Stack) -> list[str]:
    """Return the event ids of all turns visible to a reader."""
    keys = [found.object_key for found in stack.ledger.segments("turns") if found.object_key]
    return [str(row["event_id"]) for key in keys for row in decode(stack.store.get(key))]


@pytest.mark.long
async def test_f60_a_record_that_always_fails_does_not_block_later_ones(
    feedback_stack: Stack, tmp_path: Path, record_property: Any
) -> None:
    refused = refused_turns()
    replica = ReplicaProcess(feedback_stack)
    home = Home(tmp_path, f"sqlite:///{tmp_path}/sessions.db")
    address = f"127.0.0.1:{replica.port}"
    async with (
        replica.running(),
        session_service(home, feedback_target=address, principal_key=KEY) as session,
    ):
        first = await talk(session, "one", "an answer")
        finished = [turn_event_id(first.assistant_message_id, FINISHED)]
        await wait_until(lambda: event_ids(feedback_stack) == finished, "the first turn")
        bad = await session.BeginTurn(begin("two"), timeout=5, metadata=ADA)
        bad_id = turn_event_id(bad.assistant_message_id, FINISHED)
        with feedback_stack.engine.begin() as connection:
            connection.execute(text(DAMAGE.format(event_id=bad_id)))
        await session.FinishTurn(finish(bad.assistant_message_id), timeout=5, metadata=ADA)
        later = [await talk(session, question, "an answer") for question in ("three", "four")]
        request = session_pb2.DeleteConversationRequest(conversation_id=first.conversation_id)
        await session.DeleteConversation(request, timeout=5, metadata=ADA)

        finished += [turn_event_id(turn.assistant_message_id, FINISHED) for turn in later]
        expected = {*finished, turn_event_id(first.assistant_message_id, ERASED)}
        seconds = await wait_until(
            lambda: expected <= set(event_ids(feedback_stack)),
            "the turns behind the bad one",
            seconds=60,
        )
        await wait_until(lambda: refused_turns() > refused, "the record to be set aside")
    found = await asyncio.to_thread(event_ids, feedback_stack)
    assert sorted(found) == sorted(expected)
    assert refused_turns() == refused + 1
    assert feedback_stack.audit().problems == []
    record_property("fired", 1)
    record_property("later_turns_in_the_table_after_seconds", round(seconds, 1))
