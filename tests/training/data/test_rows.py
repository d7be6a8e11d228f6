"""The seam with the feedback service's sink: what it writes is what training reads."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from thumbwheel.feedback.v1 import events_pb2

from services.feedback import codec
from services.feedback.events import (
    ContextMessage,
    Correction,
    FeedbackEvent,
    Retraction,
    Thumb,
    TurnEvent,
)
from services.feedback.lake import parquet
from tests.support.errors import refused
from tests.training.feedback_log import uid
from training.data.catalogue import Segment
from training.data.chat import Message
from training.data.events import Closed, Finish, Kind
from training.data.rows import RowError, feedback_rows, turn_rows
from training.data.sealed import DataKey, Opening, Texts
from training.data.served import Served

FILES = Path(__file__).parents[2] / "services/feedback/golden"
GOLDEN, SAMPLED = (
    json.loads((FILES / f"sealed_v{release}.json").read_text()) for release in (1, 2)
)
SEGMENT = Segment(1, "topic", 0, 0, 10, "key", "sha", 3)
OPENING = Opening({"a" * 64: DataKey(consent=True)}, set())
PLACE = {"topic_id": "topic", "partition": 0, "ingest_time": 1, "schema_version": 1}
EVENT = FeedbackEvent(
    uid("e"), "t", "a" * 64, uid("c"), uid("m"), "nano-0", "stable", 1, Thumb(True, ("nice",), "x")
)
TURN = TurnEvent(
    event_id=uid("t"),
    tenant="t",
    principal="a" * 64,
    conversation_id=uid("c"),
    user_message_id=uid("u"),
    message_id=uid("m"),
    context=(ContextMessage("system", "be kind"), ContextMessage("user", "hi")),
    original_text="hi",
    answer="hello",
    finish_reason="stop",
    model_version="nano-0",
    arm="candidate",
    assignment_probability=0.5,
    task="chat",
    temperature=0.9,
    top_p=1.0,
    prompt_tokens=1,
    completion_tokens=1,
    policy_version="1",
    guard_category="",
    finish_us=1,
    erased=False,
    cached=True,
)


def table(schema, rows):
    placed = [
        {**row, **PLACE, "offset": number, "event_id": uid(f"e{number}")}
        for number, row in enumerate(rows)
    ]
    return pq.read_table(BytesIO(parquet.encode(schema, placed)))


def test_feedback_reads_as_the_sink_writes_it() -> None:
    values = [Thumb(False), Correction("better"), Retraction("thumb")]
    rows = [parquet.feedback_row(replace(EVENT, value=value)) for value in values]
    thumb, correction, retraction = feedback_rows(
        table(parquet.FEEDBACK_SCHEMA, rows), SEGMENT, OPENING
    )
    assert (thumb.kind, thumb.up, thumb.message_id, thumb.place) == (
        Kind.THUMB,
        False,
        uid("m"),
        (0, 1, 0),
    )
    assert (correction.kind, correction.text) == (Kind.CORRECTION, "better")
    assert (retraction.kind, retraction.retracts) == (Kind.RETRACTION, "thumb")


def test_turns_read_as_the_sink_writes_them() -> None:
    (turn,) = turn_rows(table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]), SEGMENT, OPENING)
    assert turn.context == (Message("system", "be kind"), Message("user", "hi"))
    assert (turn.answer, turn.finish, turn.arm, turn.erased) == (
        "hello",
        Finish.STOP,
        "candidate",
        False,
    )
    assert turn.cached


def test_columns_that_an_older_writer_did_not_have_are_null() -> None:
    old = table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]).drop_columns(
        ["guard_category", "erased", "arm", "cached"]
    )
    (turn,) = turn_rows(old, SEGMENT, OPENING)
    assert (turn.guard_category, turn.erased, turn.arm, turn.cached) == ("", False, "", False)


def test_rows_of_a_compacted_object_have_the_places_that_their_segments_gave_them() -> None:
    rows = [parquet.feedback_row(EVENT), parquet.feedback_row(replace(EVENT, value=Thumb(False)))]
    compacted = table(parquet.FEEDBACK_SCHEMA, rows).append_column(
        "sequence", pa.array([4, 7], pa.int64())
    )
    cover = Segment(7, "", 0, 0, 0, "key", "sha", 2, first_sequence=3)
    assert [event.place for event in feedback_rows(compacted, cover, OPENING)] == [
        (0, 4, 0),
        (0, 7, 1),
    ]
    for other in (replace(cover, sequence=6), replace(cover, first_sequence=5)):
        limit = f"{other.first_sequence} to {other.sequence}"
        with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit=limit):
            list(feedback_rows(compacted, other, OPENING))
    with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit="3 to 7"):
        list(feedback_rows(compacted.drop_columns(["sequence"]), cover, OPENING))


def test_golden_sealed_events_of_the_service_open_to_what_was_said() -> None:
    for name in GOLDEN["events"]:
        message = events_pb2.TurnEvent if name in ("turn", "erased") else events_pb2.FeedbackEvent
        sealed, said = (
            message.FromString(base64.b64decode(GOLDEN[part][name])) for part in ("events", "said")
        )
        key = DataKey(True, bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))
        opening = Opening({sealed.principal: key}, set())
        if message is events_pb2.TurnEvent:
            row = {**parquet.turn_row(codec.turn_from(sealed)), "event_id": sealed.event_id}
            assert row["context"] == []
            texts = opening.turn(row, SEGMENT)
            assert [(m.role, m.content) for m in texts.context] == [
                ("user", m.text) for m in said.context
            ]
            assert texts.answer == said.answer
        else:
            row = {**parquet.feedback_row(codec.feedback_from(sealed)), "event_id": sealed.event_id}
            assert opening.feedback(row, SEGMENT) == Texts(correction=said.correction.text)


def test_a_golden_turn_with_a_sample_opens_to_what_was_sampled_and_one_from_before_to_none() -> (
    None
):
    for golden, wanted in (
        (
            SAMPLED["events"]["sampled"],
            Served("v1", (262_143, 7, 1), (-0.75, -0.25, -0.0009765625), 7, 0.5, 0.75),
        ),
        (GOLDEN["events"]["turn"], None),
    ):
        sealed = events_pb2.TurnEvent.FromString(base64.b64decode(golden))
        key = DataKey(True, bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))
        row = parquet.turn_row(codec.turn_from(sealed))
        table_of = pq.read_table(
            BytesIO(
                parquet.encode(
                    parquet.TURNS_SCHEMA,
                    [{**row, **PLACE, "offset": 0, "event_id": sealed.event_id}],
                )
            )
        )
        (turn,) = turn_rows(table_of, SEGMENT, Opening({sealed.principal: key}, set()))
        assert turn.served == wanted
        (closed,) = turn_rows(
            table_of, SEGMENT, Opening({sealed.principal: DataKey(consent=False)}, set())
        )
        assert (closed.served, closed.closed) == (None, Closed.NO_CONSENT)
