"""Retracted answers: answers of conversations deleted in the session service.

The session service sends a turn with a derived event id to retract an answer. The ledger stores
event ids permanently, so no further table is needed, and retractions of every earlier version are
found.
"""

from collections.abc import Callable, Collection

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, select

from services.contracts.identifiers import ERASED, turn_event_id
from services.feedback.chunks import chunks
from services.feedback.events import Stream
from services.feedback.store import tables

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
