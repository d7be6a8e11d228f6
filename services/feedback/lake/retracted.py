"""Which answers session has taken back, with their conversations: the ledger has the event id of
the turn that does so, which follows from the answer's own. So nothing is written down beside the
ids that are kept for ever, and every version of the service has done it.
"""

import uuid
from collections.abc import Callable, Collection

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Connection, select

from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.events import Stream

# As session makes the ids of events (proto: TurnEvent.event_id); a test holds the two together.
TURN_NAMESPACE = uuid.UUID("e2251413-5acf-5f43-8fa6-38ad7b4ab04e")
RETRACTION_REVISION = 1

FindRetracted = Callable[[Collection[str]], Collection[str]]
"""Those of some answers that were taken back."""


def retracted_answers(connection: Connection, message_ids: Collection[str]) -> set[str]:
    """Those of the answers that were taken back by a committed turn."""
    table, found = tables.event_ids.c, set[str]()
    by_event = {retraction_event_id(message_id): message_id for message_id in message_ids}
    for chunk in chunks(by_event.keys()):
        query = select(table.event_id).where(
            table.stream == str(Stream.TURNS), table.event_id.in_(chunk)
        )
        found.update(by_event[event_id] for event_id in connection.execute(query).scalars())
    return found


def retraction_event_id(message_id: str) -> str:
    """Of the turn that takes an answer back."""
    return str(uuid.uuid5(TURN_NAMESPACE, f"{message_id}/{RETRACTION_REVISION}"))


def retracted_rows(
    rows: pa.Table, find_retracted: FindRetracted
) -> pa.BooleanArray | pa.ChunkedArray:
    """True where a row is about an answer that was taken back; the turn that takes it back stays.
    `rows` has the columns of its files.
    """
    if not rows.num_rows:
        return pa.array([], pa.bool_())
    found = find_retracted(pc.unique(rows["message_id"]).to_pylist())
    about = pc.is_in(rows["message_id"], pa.array(sorted(found), pa.string()))
    return pc.and_(about, pc.invert(retraction_turns(rows)))


def retraction_turns(rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
    """True where a row is a turn that takes an answer back."""
    if "erased" not in rows.column_names:
        return pa.array([False] * rows.num_rows, pa.bool_())
    return pc.fill_null(rows["erased"], False)
