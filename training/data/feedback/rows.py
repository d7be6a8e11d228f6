"""Conversion of Parquet rows of the log to events.

Columns are read by name: missing columns are null and unknown columns are ignored, so files of
older and newer writers can be combined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Feedback, FeedbackKind, FinishReason, LogPosition, Turn
from training.data.feedback.sealed import Decryptor
from training.errors import DetailedError

KNOWN_KINDS = frozenset(kind.value for kind in FeedbackKind)
KNOWN_FINISH_REASONS = frozenset(finish.value for finish in FinishReason)


class RowError(DetailedError, ValueError):
    """Error for a row without a required value; the message has object, offset and column only."""

    reason = "INVALID_ROW"


def feedback_rows(table: pa.Table, segment: Segment, decryptor: Decryptor) -> Iterator[Feedback]:
    """Yield the events of a feedback object. Unknown kinds of newer writers are skipped."""
    for row in table.to_pylist():
        kind = _text(row, "kind", segment)
        if kind in KNOWN_KINDS:
            texts = decryptor.feedback(row, segment)
            yield Feedback(
                place=_place(row, segment),
                event_id=_text(row, "event_id", segment),
                principal=_text(row, "principal", segment),
                message_id=_text(row, "message_id", segment),
                kind=FeedbackKind(kind),
                up=bool(row.get("up")),
                text=texts.correction,
                retracts=row.get("retracts") or "",
                withheld=texts.withheld,
            )


def turn_rows(table: pa.Table, segment: Segment, decryptor: Decryptor) -> Iterator[Turn]:
    """Yield the turns of a turns object."""
    for row in table.to_pylist():
        finish, texts = row.get("finish_reason"), decryptor.turn(row, segment)
        yield Turn(
            place=_place(row, segment),
            event_id=_text(row, "event_id", segment),
            principal=_text(row, "principal", segment),
            message_id=_text(row, "message_id", segment),
            context=texts.context,
            answer=texts.answer,
            finish=FinishReason(finish) if finish in KNOWN_FINISH_REASONS else FinishReason.UNKNOWN,
            model_version=row.get("model_version") or "",
            arm=row.get("arm") or "",
            guard_category=row.get("guard_category") or "",
            erased=bool(row.get("erased")),
            cached=bool(row.get("cached")),
            served=texts.served,
            withheld=texts.withheld,
        )


def _place(row: Mapping[str, Any], segment: Segment) -> LogPosition:
    """Return the log position of a row. Rows of compacted objects keep their original positions."""
    offset: Any = row.get("offset")
    sequence, inside = segment.sequence, isinstance(offset, int)
    if segment.is_compacted:
        sequence = row.get("sequence") or 0
        inside = inside and segment.first_sequence <= sequence <= segment.sequence
    else:
        inside = inside and segment.start_offset <= offset < segment.end_offset
    if not inside:
        by_sequence = segment.is_compacted and isinstance(offset, int)
        raise RowError(
            f"offset: {offset!r} of sequence {sequence} in {segment.object_key}"
            " is not in its segment",
            field="sequence" if by_sequence else "offset",
            reason="OUT_OF_RANGE",
            limit=f"{segment.first_sequence} to {segment.sequence}"
            if segment.is_compacted
            else f"{segment.start_offset} to {segment.end_offset - 1}",
        )
    return row.get("accept_order") or 0, sequence, offset


def _text(row: Mapping[str, Any], column: str, segment: Segment) -> str:
    value = row.get(column)
    if not isinstance(value, str) or not value:
        raise RowError(
            f"{column}: missing in {segment.object_key} at offset {row.get('offset')!r}",
            field=column,
            reason="MISSING",
        )
    return value
