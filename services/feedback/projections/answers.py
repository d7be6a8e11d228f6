"""Finished answers of each user by version, without texts, for the rates of a version.

The table changes in the transaction that commits a segment of turns. Answers of deleted
conversations leave the table, in any order of the answer and its retraction. Failed turns and
answers from the cache are left out: they are no observation of how a version answers.
"""

from collections.abc import Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select

from services.contracts.chat import FinishReason
from services.feedback.events import TurnEvent, created_us
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.removed_rows import retracted_answers
from services.feedback.projections.projection import (
    Projection,
    advance_position,
    key_in,
)
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import chunks

KEY_COLUMNS = ("principal", "message_id")
Key = tuple[str, str]
"""Principal and message id of an answer."""


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, TurnEvent]]
) -> None:
    """Update the table from one batch, inside the ledger's transaction."""
    _apply(connection, [vars(event) | {"finish_time": event.finish_us} for _, event in kept])
    advance_position(connection, tables.answer_positions, position)


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild an outdated table and return True after a rebuild."""
    return rebuild(
        Projection(tables.answers, tables.answer_positions, _apply), ledger, store, stream
    )


def _apply(connection: Connection, turns: Sequence[parquet.Row]) -> None:
    """Delete retracted answers and insert finished ones.

    Args:
        turns: Turns with the columns of TURNS_SCHEMA.
    """
    _delete(connection, {_key(turn) for turn in turns if turn["erased"]})
    # With several logs an answer may come after its retraction.
    retracted = retracted_answers(connection, {str(turn["message_id"]) for turn in turns})
    finished = {
        _key(turn): _columns(turn)
        for turn in turns
        if _is_observed(turn) and turn["message_id"] not in retracted
    }
    for chunk in chunks(finished.keys()):
        known = select(tables.answers.c.principal, tables.answers.c.message_id).where(
            key_in(tables.answers, KEY_COLUMNS, chunk)
        )
        for key in connection.execute(known).all():
            del finished[tuple(key)]
    if finished:
        connection.execute(insert(tables.answers), list(finished.values()))


def _delete(connection: Connection, keys: Iterable[Key]) -> None:
    for chunk in chunks(set(keys)):
        connection.execute(delete(tables.answers).where(key_in(tables.answers, KEY_COLUMNS, chunk)))


def _is_observed(turn: parquet.Row) -> bool:
    """Return True for a finished answer that a version has generated for this turn."""
    return (
        bool(turn["model_version"])
        and turn["finish_reason"] != FinishReason.FAILED
        # Null in files of the first version.
        and not turn.get("cached")
        and not turn["erased"]
    )


def _columns(turn: parquet.Row) -> Mapping[str, object]:
    return {
        "principal": turn["principal"],
        "message_id": turn["message_id"],
        "model_version": turn["model_version"],
        "arm": turn["arm"],
        # The category is set if the guard has blocked or redacted a part of the answer.
        "refused": turn["finish_reason"] == FinishReason.OUTPUT_BLOCKED
        or bool(turn["guard_category"]),
        "begin_us": created_us(str(turn["message_id"])),
        "finish_us": turn["finish_time"],
    }


def _key(turn: parquet.Row) -> Key:
    return str(turn["principal"]), str(turn["message_id"])
