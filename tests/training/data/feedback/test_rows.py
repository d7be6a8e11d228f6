"""Rows written by the feedback service's sink are read by training."""

import base64
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from thumbwheel.feedback.v1 import events_pb2

from services.contracts.feedback import Correction, Retraction, Thumb
from services.feedback import wire as codec
from services.feedback.events import FeedbackEvent, TurnEvent
from services.feedback.lake import parquet
from tests.support.errors import refused
from tests.training.feedback_log import uid
from training.data.chat import Message
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import FeedbackKind, FinishReason, Withheld
from training.data.feedback.rows import RowError, feedback_rows, turn_rows
from training.data.feedback.sealed import DataKey, Decryptor, Texts
from training.data.served import Served

FILES = Path(__file__).parents[3] / "services/feedback/golden"
GOLDEN, SAMPLED = (
    json.loads((FILES / f"sealed_v{release}.json").read_text()) for release in (1, 2)
)
SEGMENT = Segment(1, "topic", 0, 0, 10, "key", "sha", 3)
DECRYPTOR = Decryptor({"a" * 64: DataKey(consent=True)}, set())
POSITION = {"topic_id": "topic", "partition": 0, "ingest_time": 1, "schema_version": 1}
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
    context=(("system", "be kind"), ("user", "hi")),
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
    positioned = [
        {**row, **POSITION, "offset": number, "event_id": uid(f"e{number}")}
        for number, row in enumerate(rows)
    ]
    return pq.read_table(BytesIO(parquet.encode(schema, positioned)))


def test_feedback_rows_match_the_sinks_format() -> None:
    values = [Thumb(False), Correction("better"), Retraction("thumb")]
    rows = [parquet.feedback_row(replace(EVENT, value=value)) for value in values]
    thumb, correction, retraction = feedback_rows(
        table(parquet.FEEDBACK_SCHEMA, rows), SEGMENT, DECRYPTOR
    )
    assert (thumb.kind, thumb.up, thumb.message_id, thumb.place) == (
        FeedbackKind.THUMB,
        False,
        uid("m"),
        (0, 1, 0),
    )
    assert (correction.kind, correction.text) == (FeedbackKind.CORRECTION, "better")
    assert (retraction.kind, retraction.retracts) == (FeedbackKind.RETRACTION, "thumb")


def test_turn_rows_match_the_sinks_format() -> None:
    (turn,) = turn_rows(table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]), SEGMENT, DECRYPTOR)
    assert turn.context == (Message("system", "be kind"), Message("user", "hi"))
    assert (turn.answer, turn.finish, turn.arm, turn.erased) == (
        "hello",
        FinishReason.STOP,
        "candidate",
        False,
    )
    assert turn.cached


def test_columns_missing_from_older_files_are_null() -> None:
    old = table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]).drop_columns(
        ["guard_category", "erased", "arm", "cached"]
    )
    (turn,) = turn_rows(old, SEGMENT, DECRYPTOR)
    assert (turn.guard_category, turn.erased, turn.arm, turn.cached) == ("", False, "", False)


def test_rows_of_compacted_objects_keep_their_original_positions() -> None:
    rows = [parquet.feedback_row(EVENT), parquet.feedback_row(replace(EVENT, value=Thumb(False)))]
    compacted = table(parquet.FEEDBACK_SCHEMA, rows).append_column(
        "sequence", pa.array([4, 7], pa.int64())
    )
    cover = Segment(7, "", 0, 0, 0, "key", "sha", 2, first_sequence=3)
    assert [event.place for event in feedback_rows(compacted, cover, DECRYPTOR)] == [
        (0, 4, 0),
        (0, 7, 1),
    ]
    for other in (replace(cover, sequence=6), replace(cover, first_sequence=5)):
        limit = f"{other.first_sequence} to {other.sequence}"
        with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit=limit):
            list(feedback_rows(compacted, other, DECRYPTOR))
    with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit="3 to 7"):
        list(feedback_rows(compacted.drop_columns(["sequence"]), cover, DECRYPTOR))


def test_golden_sealed_events_decrypt_to_their_texts() -> None:
    for name in GOLDEN["events"]:
        message = events_pb2.TurnEvent if name in ("turn", "erased") else events_pb2.FeedbackEvent
        sealed, texts_of = (
            message.FromString(base64.b64decode(GOLDEN[part][name])) for part in ("events", "said")
        )
        key = DataKey(True, bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))
        decryptor = Decryptor({sealed.principal: key}, set())
        if message is events_pb2.TurnEvent:
            row = {**parquet.turn_row(codec.turn_from(sealed)), "event_id": sealed.event_id}
            assert row["context"] == []
            texts = decryptor.turn(row, SEGMENT)
            assert [(m.role, m.content) for m in texts.context] == [
                ("user", m.text) for m in texts_of.context
            ]
            assert texts.answer == texts_of.answer
        else:
            row = {**parquet.feedback_row(codec.feedback_from(sealed)), "event_id": sealed.event_id}
            assert decryptor.feedback(row, SEGMENT) == Texts(correction=texts_of.correction.text)


def test_golden_turns_decrypt_with_and_without_a_sample() -> None:
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
                    [{**row, **POSITION, "offset": 0, "event_id": sealed.event_id}],
                )
            )
        )
        (turn,) = turn_rows(table_of, SEGMENT, Decryptor({sealed.principal: key}, set()))
        assert turn.served == wanted
        (withheld,) = turn_rows(
            table_of, SEGMENT, Decryptor({sealed.principal: DataKey(consent=False)}, set())
        )
        assert (withheld.served, withheld.withheld) == (None, Withheld.NO_CONSENT)
