"""Parquet schemas of both streams, and deterministic encoding.

The type of a column never changes. Readers unite files by column name and treat a missing column as
null.
"""

from collections.abc import Sequence
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from services.contracts.feedback import Correction, Ranking, Retraction, Signal, Thumb
from services.feedback.events import FeedbackEvent, TurnEvent

Row = dict[str, object]

_TIME = pa.timestamp("us", tz="UTC")
# Columns of every row in all streams: the position in the log.
_COORDINATES = [
    pa.field("topic_id", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
    pa.field("event_id", pa.string(), nullable=False),
    pa.field("ingest_time", _TIME, nullable=False),
    pa.field("schema_version", pa.int32(), nullable=False),
    pa.field(
        "accept_order", pa.int64()
    ),  # order across replicas; null with a single replica, where the offsets are the order
    pa.field("tenant", pa.string(), nullable=False),
    pa.field("principal", pa.string(), nullable=False),
    pa.field("conversation_id", pa.string(), nullable=False),
    pa.field("message_id", pa.string(), nullable=False),
    pa.field("model_version", pa.string(), nullable=False),
    pa.field("arm", pa.string(), nullable=False),
]
# Texts sealed under the principal's key (sealing.py), with empty text columns. Null in rows of the
# first version.
_SEALED = pa.field("sealed", pa.binary())
FEEDBACK_SCHEMA = pa.schema(
    [
        *_COORDINATES,
        pa.field("accept_time", _TIME, nullable=False),
        pa.field(
            "kind", pa.string(), nullable=False
        ),  # thumb, correction, retraction, signal, ranking
        pa.field("up", pa.bool_()),  # of a thumb
        pa.field("reasons", pa.list_(pa.string())),  # of a thumb
        pa.field("comment", pa.string()),  # of a thumb
        pa.field("correction", pa.string()),  # the better answer
        pa.field("retracts", pa.string()),  # thumb or correction
        pa.field("unknown_bytes", pa.binary()),  # protobuf fields of a newer writer
        _SEALED,
        pa.field("signal", pa.string()),  # kind of a signal; missing in older files
        # Principal of a reviewer, null for feedback of the user; missing in older files, like the
        # columns of a ranking.
        pa.field("rater", pa.string()),
        pa.field("ranking_source", pa.string()),  # arena or review
        pa.field(
            "ranking",
            pa.list_(
                pa.struct(
                    [
                        ("message_id", pa.string()),  # empty for an answer of the event
                        ("text", pa.string()),  # of an answer of the event; empty if sealed
                        ("model_version", pa.string()),
                        ("rank", pa.int32()),  # 1 for the best; equal ranks are ties
                    ]
                )
            ),
        ),
    ]
)
TURNS_SCHEMA = pa.schema(
    [
        *_COORDINATES,
        pa.field("user_message_id", pa.string(), nullable=False),
        pa.field(
            "context",
            pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())])),
            nullable=False,
        ),
        pa.field("original_text", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field(
            "finish_reason", pa.string(), nullable=False
        ),  # as in chat.proto, lower case: stop, length …
        pa.field("assignment_probability", pa.float32(), nullable=False),
        pa.field("task", pa.string(), nullable=False),  # as in chat.proto, lower case: code, chat …
        pa.field("temperature", pa.float32(), nullable=False),
        pa.field("top_p", pa.float32(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("completion_tokens", pa.int64(), nullable=False),
        pa.field("policy_version", pa.string(), nullable=False),
        pa.field("guard_category", pa.string(), nullable=False),
        pa.field("finish_time", _TIME, nullable=False),
        pa.field(
            "erased", pa.bool_(), nullable=False
        ),  # readers must drop all rows of this message_id; the texts of this row are empty
        pa.field("unknown_bytes", pa.binary()),
        pa.field(
            "cached", pa.bool_()
        ),  # answer from the cache, written for an earlier turn; null in older files
        _SEALED,
        pa.field(
            "parent_message_id", pa.string()
        ),  # null without consent to implicit signals; missing in older files
    ]
)


def feedback_row(event: FeedbackEvent) -> Row:
    """Return the columns of a feedback event without its position in the log."""
    row = _common(event) | {"accept_time": event.accept_us, "rater": event.rater or None}
    match event.value:
        case Thumb(up, reasons, comment):
            return row | {"kind": "thumb", "up": up, "reasons": list(reasons), "comment": comment}
        case Correction(text):
            return row | {"kind": "correction", "correction": text}
        case Retraction(subject):
            return row | {"kind": "retraction", "retracts": subject}
        case Signal(kind):
            return row | {"kind": "signal", "signal": kind}
        case Ranking(answers, source):
            ranked = [vars(answer) for answer in answers]
            return row | {"kind": "ranking", "ranking": ranked, "ranking_source": source}
        case None:
            raise ValueError("an event without a value has no row")


def turn_row(event: TurnEvent) -> Row:
    """Return the columns of a turn without its position in the log."""
    return _common(event) | {
        "user_message_id": event.user_message_id,
        "context": [{"role": role, "text": text} for role, text in event.context],
        "original_text": event.original_text,
        "answer": event.answer,
        "finish_reason": event.finish_reason,
        "assignment_probability": event.assignment_probability,
        "task": event.task,
        "temperature": event.temperature,
        "top_p": event.top_p,
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "policy_version": event.policy_version,
        "guard_category": event.guard_category,
        "finish_time": event.finish_us,
        "erased": event.erased,
        "cached": event.cached,
        "parent_message_id": event.parent_message_id,
    }


def encode_feedback(rows: Sequence[Row]) -> bytes:
    """Encode rows of the feedback stream as one object."""
    return encode(FEEDBACK_SCHEMA, rows)


def encode_turns(rows: Sequence[Row]) -> bytes:
    """Encode rows of the turns stream as one object."""
    return encode(TURNS_SCHEMA, rows)


def encode(schema: pa.Schema, rows: Sequence[Row]) -> bytes:
    """Encode rows as one Parquet file.

    Equal rows give equal bytes with the same version of pyarrow, recorded in the file.
    """
    return write(pa.Table.from_pylist(list(rows), schema=schema))


def write(table: pa.Table) -> bytes:
    """Return the bytes of a table with a single row group."""
    buffer = BytesIO()
    pq.write_table(
        table, buffer, compression="zstd", version="2.6", row_group_size=max(1, table.num_rows)
    )
    return buffer.getvalue()


def read(data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the table of a file.

    Args:
        columns: Names of the columns to read; None reads all columns of the file.
    """
    return pq.ParquetFile(BytesIO(data)).read(None if columns is None else list(columns))


def to_rows(table: pa.Table) -> list[Row]:
    """Return the rows of a table, with times in microseconds since 1970."""
    plain = [
        field.with_type(pa.int64()) if field.type == _TIME else field for field in table.schema
    ]
    rows: list[Row] = table.cast(pa.schema(plain)).to_pylist()
    return rows


def _common(event: FeedbackEvent | TurnEvent) -> Row:
    return {
        "tenant": event.tenant,
        "principal": event.principal,
        "conversation_id": event.conversation_id,
        "message_id": event.message_id,
        "model_version": event.model_version,
        "arm": event.arm,
        "unknown_bytes": event.unknown_bytes or None,
        "sealed": event.sealed or None,
    }
