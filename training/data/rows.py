"""Rows of the log's Parquet objects as events. Columns are read by name: a missing one is null, an
unknown one is ignored, so files of older and newer writers unite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from training.data.catalogue import Segment
from training.data.events import Feedback, Finish, Kind, Place, Turn
from training.data.sealed import Opening
from training.errors import DetailedError

KINDS = frozenset(kind.value for kind in Kind)
FINISHES = frozenset(finish.value for finish in Finish)


class RowError(DetailedError, ValueError):
    """A row lacks a value without which it means nothing; the text names object, offset and column,
    never the content.
    """

    reason = "INVALID_ROW"


def feedback_rows(table: pa.Table, segment: Segment, opening: Opening) -> Iterator[Feedback]:
    """Events of a feedback object. Kinds that a newer writer may bring are skipped."""
    for row in table.to_pylist():
        kind = _text(row, "kind", segment)
        if kind in KINDS:
            texts = opening.feedback(row, segment)
            yield Feedback(
                place=_place(row, segment),
                event_id=_text(row, "event_id", segment),
                principal=_text(row, "principal", segment),
                message_id=_text(row, "message_id", segment),
                kind=Kind(kind),
                up=bool(row.get("up")),
                text=texts.correction,
                retracts=row.get("retracts") or "",
                closed=texts.closed,
            )


def turn_rows(table: pa.Table, segment: Segment, opening: Opening) -> Iterator[Turn]:
    """Turns of a turns object."""
    for row in table.to_pylist():
        finish, texts = row.get("finish_reason"), opening.turn(row, segment)
        yield Turn(
            place=_place(row, segment),
            event_id=_text(row, "event_id", segment),
            principal=_text(row, "principal", segment),
            message_id=_text(row, "message_id", segment),
            context=texts.context,
            answer=texts.answer,
            finish=Finish(finish) if finish in FINISHES else Finish.UNKNOWN,
            model_version=row.get("model_version") or "",
            arm=row.get("arm") or "",
            guard_category=row.get("guard_category") or "",
            erased=bool(row.get("erased")),
            cached=bool(row.get("cached")),
            served=texts.served,
            closed=texts.closed,
        )


def _place(row: Mapping[str, Any], segment: Segment) -> Place:
    """Rows of a compacted object keep the places that their own segments gave them."""
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
            f"offset: {offset!r} of sequence {sequence} in {segment.object_key} is not in its segment",
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
