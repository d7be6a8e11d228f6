"""Rows that readers leave out and compaction removes: rows of erasures and of retracted answers.

An erasure covers all events of its principal up to that moment, stored or in transit. Feedback of a
reviewer belongs to the reviewer and to the user: the erasure of either removes the event. Sealed
events name the shredded key. Plain events were accepted before sealing existed: in transit they
precede every erasure; in an object they are erased if the erasure came at or after their segment.

A retracted answer belongs to a conversation that was deleted in the session service, which sends a
turn with a derived event id to retract the answer. The ledger stores event ids permanently, so no
further table is needed, and retractions of every earlier version are found.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, func, select

from services.contracts.identifiers import ERASED, turn_event_id
from services.feedback.events import Stream
from services.feedback.principals.sealing import KEY_ID_RANGE, RATED_VERSION, RATER_KEY_ID_RANGE
from services.feedback.store import tables
from services.feedback.store.database import chunks


@dataclass(frozen=True)
class Owner:
    """Principal or rater of an event, and id of the sealing key, empty for plain texts."""

    principal: str
    key_id: bytes


def erased_among(connection: Connection, owners: Collection[Owner]) -> set[Owner]:
    """Return the owners whose events in transit were erased."""
    table = tables.erasures.c
    erased: set[bytes | str] = set()
    for key_ids in chunks({owner.key_id for owner in owners if owner.key_id}):
        found = connection.execute(select(table.key_id).where(table.key_id.in_(key_ids)))
        erased.update(bytes(key_id) for (key_id,) in found)
    for principals in chunks({owner.principal for owner in owners if not owner.key_id}):
        erased.update(
            connection.execute(
                select(table.principal).where(table.principal.in_(principals))
            ).scalars()
        )
    return {owner for owner in owners if (owner.key_id or owner.principal) in erased}


@dataclass(frozen=True)
class ErasedRowMask:
    """Mask of erased rows in the objects of one stream.

    `plain_until` maps a principal to the last sequence of its erased plain rows.
    """

    key_ids: frozenset[bytes]
    plain_until: Mapping[str, int]

    def mask(self, rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
        """Return a mask of the erased rows.

        Args:
            rows: Table with the columns of its files and `sequence`, the sequence of the segment.
        """
        if not rows.num_rows:
            return pa.array([], pa.bool_())
        # Files of the first version have no such column.
        sealed = (
            rows["sealed"]
            if "sealed" in rows.column_names
            else pa.nulls(rows.num_rows, pa.binary())
        )
        key_ids = pa.array(sorted(self.key_ids), pa.binary())
        is_rated = pc.equal(pc.binary_slice(sealed, 0, len(RATED_VERSION)), RATED_VERSION)
        shredded = pc.or_(
            pc.is_in(pc.binary_slice(sealed, *KEY_ID_RANGE), key_ids),
            pc.and_(is_rated, pc.is_in(pc.binary_slice(sealed, *RATER_KEY_ID_RANGE), key_ids)),
        )
        principals, until = list(self.plain_until), list(self.plain_until.values())
        found = pc.index_in(rows["principal"], pa.array(principals, pa.string()))
        erased_until = pc.fill_null(pc.take(pa.array(until, pa.int64()), found), 0)
        return pc.if_else(
            pc.is_null(sealed), pc.less_equal(rows["sequence"], erased_until), shredded
        )


def erased_row_mask(connection: Connection, stream: str) -> ErasedRowMask:
    """Return the mask for the current erasure ledger."""
    erasures, reaches = tables.erasures.c, tables.erasure_reaches.c
    shredded = select(erasures.key_id).where(erasures.key_id.is_not(None))
    furthest = (
        select(erasures.principal, func.max(reaches.sequence))
        .where(erasures.number == reaches.number, reaches.stream == stream)
        .group_by(erasures.principal)
    )
    return ErasedRowMask(
        frozenset(map(bytes, connection.execute(shredded).scalars())),
        {row[0]: row[1] for row in connection.execute(furthest)},
    )


FindRetracted = Callable[[Collection[str]], Collection[str]]
"""Returns the retracted answers among the given answers."""


def retracted_answers(connection: Connection, message_ids: Collection[str]) -> set[str]:
    """Return the answers retracted by a committed turn among the given answers."""
    table, found = tables.event_ids.c, set[str]()
    by_event = {turn_event_id(message_id, ERASED): message_id for message_id in message_ids}
    for chunk in chunks(by_event.keys()):
        query = select(table.event_id).where(
            table.stream == str(Stream.TURNS), table.event_id.in_(chunk)
        )
        found.update(by_event[event_id] for event_id in connection.execute(query).scalars())
    return found


def retracted_rows(
    rows: pa.Table, find_retracted: FindRetracted
) -> pa.BooleanArray | pa.ChunkedArray:
    """Return a mask of the rows about a retracted answer, without the retracting turns.

    Args:
        rows: Table with the columns of its files.
        find_retracted: Returns the retracted answers among given answers.
    """
    if not rows.num_rows:
        return pa.array([], pa.bool_())
    found = find_retracted(pc.unique(rows["message_id"]).to_pylist())
    about = pc.is_in(rows["message_id"], pa.array(sorted(found), pa.string()))
    return pc.and_(about, pc.invert(retraction_turns(rows)))


def retraction_turns(rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
    """Return a mask of the turns that retract an answer."""
    if "erased" not in rows.column_names:
        return pa.array([False] * rows.num_rows, pa.bool_())
    return pc.fill_null(rows["erased"], False)
