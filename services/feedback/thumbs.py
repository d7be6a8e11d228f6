"""Which thumb stands: the last of a user on a message, in the order of the log; a retraction removes it.

What the sink committed is a table, moved in the ledger's own transaction; what waits in the spool lies over it in memory.
So an acknowledged thumb is seen at once, also after a kill, and neither part can be ahead of the log.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, bindparam, delete, func, insert, select

from services.feedback import parquet, tables
from services.feedback.events import FeedbackEvent, Retraction, Subject, Thumb
from services.feedback.frames import Record
from services.feedback.ledger import Ledger
from services.feedback.object_store import ObjectStore
from services.feedback.sink import Position, UndecodableError

Key = tuple[str, str]
"""Principal and message id."""
MESSAGES_A_QUERY = 500


@dataclass(frozen=True)
class Standing:
    """A thumb that stands."""

    up: bool
    model_version: str
    arm: str
    accept_us: int


@dataclass(frozen=True)
class Change:
    """What an event does to the thumb of one user on one message; None removes it."""

    key: Key
    standing: Standing | None


@dataclass(frozen=True)
class ThumbCount:
    """Standing thumbs of one version under one arm."""

    model_version: str
    arm: str
    up: int
    down: int


def change_of(event: FeedbackEvent) -> Change | None:
    """None: the event does not touch thumbs."""
    key = (event.principal, event.message_id)
    match event.value:
        case Thumb(up=up):
            return Change(key, Standing(up, event.model_version, event.arm, event.accept_us))
        case Retraction(subject=Subject.THUMB):
            return Change(key, None)
        case _:
            return None


def change_of_row(row: parquet.Row) -> Change | None:
    """The same, of an event that is a row by now."""
    key = (str(row["principal"]), str(row["message_id"]))
    if row["kind"] == "thumb":
        accept_us = row["accept_time"]
        assert isinstance(accept_us, int)
        return Change(key, Standing(bool(row["up"]), str(row["model_version"]), str(row["arm"]), accept_us))
    return Change(key, None) if row["retracts"] == Subject.THUMB else None


def fold(connection: Connection, position: Position, events: Sequence[FeedbackEvent]) -> None:
    """Move the table by one batch, inside the ledger's transaction."""
    _move(connection, position, [change for event in events if (change := change_of(event))])


class Overlay:
    """Changes that the table does not have yet, in the order of the log. Lives on the event loop."""

    def __init__(self, decode: Callable[[Record], FeedbackEvent]) -> None:
        self._decode = decode
        self._changes: OrderedDict[Key, tuple[int, Standing | None]] = OrderedDict()

    def take(self, records: Iterable[Record]) -> None:
        """Records as they were stored, in order; what cannot be decoded will be a dead letter and counts for nothing."""
        for record in records:
            with contextlib.suppress(UndecodableError):
                if change := change_of(self._decode(record)):
                    self._changes.pop(change.key, None)
                    self._changes[change.key] = (record.offset, change.standing)

    def trim(self, before: int) -> None:
        """Drop what the table has by now."""
        while self._changes and next(iter(self._changes.values()))[0] < before:
            self._changes.popitem(last=False)

    def snapshot(self) -> dict[Key, Standing | None]:
        """The changes as of now. Take it before reading the table: a change may be in both, never in neither."""
        return {key: standing for key, (_, standing) in self._changes.items()}


class Thumbs:
    """Answers from table and overlay together."""

    def __init__(self, engine: Engine, overlay: Overlay) -> None:
        self._engine, self._overlay = engine, overlay

    async def get(self, principal: str, message_ids: Sequence[str]) -> dict[str, bool]:
        """Message id → up, for the messages on which the user's thumb stands."""
        changes = self._overlay.snapshot()
        wanted = list(dict.fromkeys(message_ids))
        found = await asyncio.to_thread(self._stored, {(principal, message_id) for message_id in wanted})
        for message_id in wanted:
            key = (principal, message_id)
            if key in changes:
                found[key] = changes[key]
        return {message_id: standing.up for (_, message_id), standing in found.items() if standing}

    async def count(self, since_us: int) -> list[ThumbCount]:
        """Standing thumbs given at or after a time, by version and arm."""
        changes = self._overlay.snapshot()
        totals = await asyncio.to_thread(self._totals, changes, since_us)
        pairs = sorted({(version, arm) for version, arm, _ in totals})
        counts = [ThumbCount(v, a, totals[v, a, True], totals[v, a, False]) for v, a in pairs]
        return [count for count in counts if count.up or count.down]

    def _stored(self, keys: set[Key]) -> dict[Key, Standing | None]:
        with self._engine.begin() as connection:
            return dict(_standing(connection, keys))

    def _totals(self, changes: Mapping[Key, Standing | None], since_us: int) -> Counter[tuple[str, str, bool]]:
        table = tables.thumbs.c
        grouped = (
            select(table.model_version, table.arm, table.up, func.count())
            .where(table.accept_us >= since_us)
            .group_by(table.model_version, table.arm, table.up)
        )
        totals: Counter[tuple[str, str, bool]] = Counter()
        with self._engine.begin() as connection:
            for version, arm, up, number in connection.execute(grouped):
                totals[version, arm, bool(up)] = number
            replaced = _standing(connection, set(changes))
        for sign, thumbs in ((-1, replaced.values()), (1, changes.values())):
            for thumb in thumbs:
                if thumb and thumb.accept_us >= since_us:
                    totals[thumb.model_version, thumb.arm, thumb.up] += sign
        return totals


def catch_up(engine: Engine, ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild the table from the committed objects if it does not stand where the ledger does. True if it was rebuilt."""
    segments = ledger.segments(stream)
    ends = {(segment.topic_id, segment.partition): segment.end_offset for segment in segments}
    table = tables.thumb_positions
    with engine.begin() as connection:
        reached = connection.execute(select(table.c.topic_id, table.c.partition, table.c.end_offset))
        if {(row.topic_id, row.partition): row.end_offset for row in reached} == ends:
            return False
        connection.execute(delete(tables.thumbs))
        connection.execute(delete(table))
        for segment in segments:
            rows = parquet.decode(store.get(segment.object_key)) if segment.object_key else []
            position = Position(segment.topic_id, segment.partition, segment.end_offset)
            _move(connection, position, [change for row in rows if (change := change_of_row(row))])
    return True


def _move(connection: Connection, position: Position, changes: Iterable[Change]) -> None:
    last = {change.key: change.standing for change in changes}
    table, positions = tables.thumbs, tables.thumb_positions
    if last:
        one = (table.c.principal == bindparam("of_principal")) & (table.c.message_id == bindparam("of_message"))
        connection.execute(delete(table).where(one), [{"of_principal": p, "of_message": m} for p, m in last])
    rows = [{"principal": key[0], "message_id": key[1], **vars(thumb)} for key, thumb in last.items() if thumb]
    if rows:
        connection.execute(insert(table), rows)
    here = (positions.c.topic_id == position.topic_id) & (positions.c.partition == position.partition)
    connection.execute(delete(positions).where(here))
    connection.execute(insert(positions).values(vars(position)))


def _standing(connection: Connection, keys: set[Key]) -> dict[Key, Standing]:
    table, found = tables.thumbs.c, {}
    message_ids = sorted({message_id for _, message_id in keys})
    for at in range(0, len(message_ids), MESSAGES_A_QUERY):
        query = select(tables.thumbs).where(table.message_id.in_(message_ids[at : at + MESSAGES_A_QUERY]))
        for row in connection.execute(query):
            if (row.principal, row.message_id) in keys:
                standing = Standing(bool(row.up), row.model_version, row.arm, row.accept_us)
                found[row.principal, row.message_id] = standing
    return found
