"""Finished answers of each user by version, without texts, for the rates of a version.

The table changes in the transaction that commits a segment of turns. Answers of deleted
conversations leave the table, in any order of the answer and its retraction. Failed turns and
answers from the cache are left out: they are no observation of how a version answers.

Implicit signals on an answer follow from later turns. The user asked again if the same message of
the user got a later answer, and edited if a later message of the user has the same parent. Both
depend only on the rows with the same parent, so the order of delivery does not matter. Ids are
UUIDv7, whose order is the order of time.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import Connection, delete, insert, select, update

from services.contracts.chat import FinishReason
from services.contracts.identifiers import created_us
from services.feedback.events import TurnEvent
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
PARENT_COLUMNS = ("principal", "conversation_id", "parent_message_id")
Parent = tuple[str, str, str]
"""Principal, conversation, and the message to which the user replied."""


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
    """Delete retracted answers, insert finished ones, and mark the answers before them.

    Args:
        turns: Turns with the columns of TURNS_SCHEMA.
    """
    parents = _delete(connection, {_key(turn) for turn in turns if turn["erased"]})
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
        for principal, message_id in connection.execute(known).all():
            del finished[principal, message_id]
    if finished:
        connection.execute(insert(tables.answers), list(finished.values()))
    _mark_follow_ups(connection, parents | _parents(finished.values()))


def _delete(connection: Connection, keys: Collection[Key]) -> set[Parent]:
    """Delete answers and return their parents."""
    parents = set[Parent]()
    for chunk in chunks(keys):
        condition = key_in(tables.answers, KEY_COLUMNS, chunk)
        found = connection.execute(select(tables.answers).where(condition))
        parents |= _parents([dict(row._mapping) for row in found])
        connection.execute(delete(tables.answers).where(condition))
    return parents


def _mark_follow_ups(connection: Connection, parents: Collection[Parent]) -> None:
    """Set `asked_again` and `edited` of all answers with these parents."""
    table = tables.answers
    names = ("user_message_id", "message_id", "asked_again", "edited", *PARENT_COLUMNS)
    for chunk in chunks(parents):
        siblings = defaultdict(list)
        query = select(*(table.c[name] for name in names))
        for row in connection.execute(query.where(key_in(table, PARENT_COLUMNS, chunk))):
            siblings[row.principal, row.conversation_id, row.parent_message_id].append(row)
        changed: dict[tuple[bool, bool], list[Key]] = defaultdict(list)
        for rows in siblings.values():
            last_answers: dict[str, str] = {}
            for row in rows:
                last = last_answers.get(row.user_message_id, "")
                last_answers[row.user_message_id] = max(last, row.message_id)
            for row in rows:
                asked_again = row.message_id < last_answers[row.user_message_id]
                edited = row.user_message_id < max(last_answers)
                if (asked_again, edited) != (bool(row.asked_again), bool(row.edited)):
                    changed[asked_again, edited].append((row.principal, row.message_id))
        for (asked_again, edited), keys in changed.items():
            for some in chunks(keys):
                connection.execute(
                    update(table)
                    .where(key_in(table, KEY_COLUMNS, some))
                    .values(asked_again=asked_again, edited=edited)
                )


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
    parent_message_id, finish_reason = turn.get("parent_message_id"), turn["finish_reason"]
    copied = ("principal", "message_id", "conversation_id", "user_message_id")
    return {name: turn[name] for name in (*copied, "model_version", "arm")} | {
        # The category is set if the guard has blocked or redacted a part of the answer.
        "refused": finish_reason == FinishReason.OUTPUT_BLOCKED or bool(turn["guard_category"]),
        "begin_us": created_us(str(turn["message_id"])),
        "finish_us": turn["finish_time"],
        "parent_message_id": parent_message_id,
        "stopped": parent_message_id is not None and finish_reason == FinishReason.CANCELLED,
    }


def _parents(answers: Iterable[Mapping[str, object]]) -> set[Parent]:
    """Return the parents of answers that may have implicit signals."""
    return {
        (str(row["principal"]), str(row["conversation_id"]), str(row["parent_message_id"]))
        for row in answers
        if row["parent_message_id"] is not None
    }


def _key(turn: parquet.Row) -> Key:
    return str(turn["principal"]), str(turn["message_id"])
