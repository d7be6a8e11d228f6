"""Rows and bytes: equal rows give equal bytes in every process, and round-trip."""

import hashlib
import subprocess
import sys

import pyarrow as pa

from services.feedback import wire as codec
from services.feedback.lake import parquet
from services.feedback.spool.log import Record
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import (
    FEEDBACK,
    RAE,
    TURNS,
    correction,
    erased,
    name,
    ranking,
    retraction,
    thumb,
    turn,
)

COORDINATES = {"topic_id": "t", "partition": 0, "ingest_time": 11, "schema_version": 1}


def feedback_rows() -> list[parquet.Row]:
    good = thumb("a")
    good.thumb.reasons.append("clear")
    records = [
        Record(i, 11, codec.feedback_entry(m))
        for i, m in enumerate([good, correction("b"), retraction("c")])
    ]
    return [
        FEEDBACK.row(FEEDBACK.decode(record))
        | COORDINATES
        | {"offset": record.offset, "event_id": record.entry.event_id}
        for record in records
    ]


def turn_rows() -> list[parquet.Row]:
    records = [Record(i, 11, codec.turn_entry(m)) for i, m in enumerate([turn(), erased()])]
    return [
        TURNS.row(TURNS.decode(record))
        | COORDINATES
        | {"offset": record.offset, "event_id": record.entry.event_id}
        for record in records
    ]


def digest() -> str:
    return hashlib.sha256(parquet.encode_feedback(feedback_rows())).hexdigest()


def test_feedback_rows_round_trip() -> None:
    rows = decode(parquet.encode_feedback(feedback_rows()))
    assert [(row["kind"], row["up"], row["correction"], row["retracts"]) for row in rows] == [
        ("thumb", True, None, None),
        ("correction", None, "a better answer", None),
        ("retraction", None, None, "thumb"),
    ]
    assert (rows[0]["reasons"], rows[0]["accept_time"], rows[0]["ingest_time"]) == (
        ["clear"],
        1_000_000_000,
        11,
    )
    assert [row["offset"] for row in rows] == [0, 1, 2]


def test_rankings_round_trip_and_files_without_their_columns_are_read() -> None:
    said = ranking("d", ("m", 2), ("a text", 1), rater=RAE)
    row = FEEDBACK.row(FEEDBACK.decode(Record(3, 11, codec.feedback_entry(said))))
    positioned = row | COORDINATES | {"offset": 3, "event_id": said.event_id}
    new = parquet.read(parquet.encode_feedback([positioned]))
    columns = ("rater", "ranking_source", "ranking")
    old = parquet.read(parquet.encode_feedback(feedback_rows())).drop_columns(columns)
    found = parquet.to_rows(pa.concat_tables([old, new], promote_options="default"))
    assert [row["rater"] for row in found] == [None, None, None, said.rater]
    assert (found[3]["kind"], found[3]["ranking_source"]) == ("ranking", "review")
    assert found[3]["ranking"] == [
        {"message_id": name("m"), "text": "", "model_version": "v2", "rank": 2},
        {"message_id": "", "text": "a text", "model_version": "v1", "rank": 1},
    ]


def test_turn_rows_round_trip_including_erased_turns() -> None:
    rows = decode(parquet.encode_turns(turn_rows()))
    assert rows[0]["context"] == [{"role": "user", "text": "what is it?"}]
    assert (rows[0]["answer"], rows[0]["finish_reason"], rows[0]["finish_time"]) == (
        "forty-two",
        "stop",
        2_000_000_000,
    )
    assert [row["erased"] for row in rows] == [False, True]
    assert [row["cached"] for row in rows] == [False, False]
    assert (rows[1]["context"], rows[1]["answer"], rows[1]["message_id"]) == (
        [],
        "",
        rows[0]["message_id"],
    )


def test_another_process_writes_the_same_bytes() -> None:
    program = "from tests.services.feedback.lake.test_parquet import digest; print(digest())"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == digest()
