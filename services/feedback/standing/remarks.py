"""What stands in words: reasons and comment of a user's last thumb on a message, and the last
correction, for that user alone to see.

Kept as the log has them, sealed, in a table that moves in the ledger's own transaction: an erasure
takes key and rows, as it takes the log's. They are opened for one answer and never remembered.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sqlalchemy import Connection, Engine, delete, select

from services.chassis.errors import UnavailableError
from services.feedback import tables
from services.feedback.events import Correction, FeedbackEvent, Retraction, Subject, Thumb, Words
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger, transaction
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.taken_back import taken_back
from services.feedback.portions import portions
from services.feedback.principals.sealing import LEAST_BYTES, DataKey, unseal
from services.feedback.sink.sink import Position
from services.feedback.spool.frames import Record
from services.feedback.standing.latest import among, move, newer
from services.feedback.standing.projection import Projection, stand
from services.feedback.standing.projection import catch_up as rebuild

KEY_COLUMNS = ("principal", "message_id", "subject")
Key = tuple[str, str, str]
"""Principal, message id, subject."""
SWEEP_SECONDS = 3_600.0


@dataclass(frozen=True)
class Remark:
    """The words of one event; `sealed` empty: it had none, or took them back."""

    event_id: str
    sealed: bytes
    accept_us: int
    accept_order: int = 0

    def replaces(self, other: "Remark | None") -> bool:
        """As opinions do."""
        return other is None or self.accept_order >= other.accept_order


Change = tuple[Key, Remark]


def change_of(event: FeedbackEvent, accept_order: int) -> Change | None:
    """What an event makes of the words on its message; None: nothing."""
    match event.value:
        case Thumb():
            subject: str = Subject.THUMB
        case Correction():
            subject = Subject.CORRECTION
        case Retraction(subject=subject):
            pass
        case None:
            return None
    remark = Remark(event.event_id, _with_words(event.sealed), event.accept_us, accept_order)
    return (event.principal, event.message_id, str(subject)), remark


def change_of_row(row: parquet.Row) -> Change:
    """The same, of an event that is a row by now. Of the first version's rows, which are not
    sealed, no words stand.
    """
    subject = row["retracts"] or row["kind"]
    sealed, accept_us, accept_order = (
        row.get("sealed") or b"",
        row["accept_time"],
        row.get("accept_order") or 0,
    )
    assert isinstance(sealed, bytes)
    assert isinstance(accept_us, int)
    assert isinstance(accept_order, int)
    remark = Remark(str(row["event_id"]), _with_words(sealed), accept_us, accept_order)
    return (str(row["principal"]), str(row["message_id"]), str(subject)), remark


def _with_words(sealed: bytes) -> bytes:
    """Events without words are sealed too, and exactly so long."""
    return sealed if len(sealed) > LEAST_BYTES else b""


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Move the table by one batch, inside the ledger's transaction."""
    changes = (change_of(event, record.entry.accept_order) for record, event in kept)
    _move(connection, [change for change in changes if change])
    stand(connection, tables.remark_positions, position)


def forget(connection: Connection, about: Collection[tuple[str, str]]) -> None:
    """Remove what principals said about answers that were taken back."""
    for some in portions(about):
        connection.execute(
            delete(tables.remarks).where(among(tables.remarks, KEY_COLUMNS[:2], some))
        )


class Pending(Protocol):
    """Remarks that the table may not have yet."""

    async def opinions(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """Those about some keys, or all. Ask before reading the table: one may be in both, never in
        neither.
        """


class NonePending:
    """Where many processes accept, nobody has all spools: words stand once the table has them."""

    async def opinions(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """None."""
        return {}


class Keys(Protocol):
    """Keys of principals."""

    def known(self, principals: Collection[str]) -> Mapping[str, DataKey]:
        """Those that there are. Raises: UnavailableError."""


class Remarks:
    """Answers from the table and what is pending, together. `words_from` reads what was sealed."""

    def __init__(
        self, engine: Engine, pending: Pending, keys: Keys, words_from: Callable[[bytes], Words]
    ) -> None:
        self._engine, self._pending, self._keys, self._words_from = (
            engine,
            pending,
            keys,
            words_from,
        )

    async def get(
        self, principal: str, message_ids: Sequence[str], thumbs_us: Mapping[str, int]
    ) -> dict[str, Words]:
        """Message id → the user's words. `thumbs_us`: when the thumbs that stand were accepted;
        words of others are not told.

        Raises:
            UnavailableError: the database is away, or the master key is another.
        """
        keys = {
            (principal, message_id, str(subject))
            for message_id in message_ids
            for subject in Subject
        }
        pending = await self._pending.opinions(keys)
        remarks = await asyncio.to_thread(self._committed, keys)
        remarks |= newer(pending, remarks)
        told = {
            (message_id, subject): remark
            for (_, message_id, subject), remark in remarks.items()
            if remark.sealed
            and (subject != Subject.THUMB or thumbs_us.get(message_id) == remark.accept_us)
        }
        return await asyncio.to_thread(self._opened, principal, told) if told else {}

    def _committed(self, keys: set[Key]) -> dict[Key, Remark]:
        with transaction(self._engine) as connection:
            return _remarks(connection, keys)

    def _opened(self, principal: str, told: Mapping[tuple[str, str], Remark]) -> dict[str, Words]:
        key, found = self._keys.known([principal]).get(principal), dict[str, Words]()
        # Words that came after their answer was taken back stand until the next compaction.
        with transaction(self._engine) as connection:
            gone = taken_back(connection, {message_id for message_id, _ in told})
        for (message_id, subject), remark in told.items():
            texts = (
                unseal(remark.sealed, key, remark.event_id, principal)
                if key and message_id not in gone
                else None
            )
            if texts is None:
                continue
            words, before = self._words_from(texts), found.get(message_id, Words())
            if subject == Subject.THUMB:
                found[message_id] = replace(words, correction=before.correction)
            else:
                found[message_id] = replace(before, correction=words.correction)
        return found


def catch_up(ledger: Ledger, store: ObjectStore, stream: str) -> bool:
    """Rebuild the remarks if they do not stand where the ledger does. True if they were rebuilt."""
    return rebuild(
        Projection(tables.remarks, tables.remark_positions, _move_rows), ledger, store, stream
    )


async def expire_hourly(
    engine: Engine,
    older_than_seconds: float,
    now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
) -> None:
    """For ever, beginning now: words are kept no longer here than in the objects, where compaction
    leaves them out.
    """
    while True:
        before_us = now_us() - int(older_than_seconds * 1_000_000)
        with contextlib.suppress(UnavailableError):
            await asyncio.to_thread(expire, engine, before_us)
        await asyncio.sleep(SWEEP_SECONDS)


def expire(engine: Engine, before_us: int) -> None:
    """Remove what was accepted before a time. Raises: LedgerUnavailableError."""
    with transaction(engine) as connection:
        connection.execute(delete(tables.remarks).where(tables.remarks.c.accept_us < before_us))


def _move_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
    _move(connection, map(change_of_row, rows))


def _move(connection: Connection, changes: Iterable[Change]) -> None:
    move(connection, tables.remarks, KEY_COLUMNS, changes, _remarks)


def _remarks(connection: Connection, keys: Collection[Key]) -> dict[Key, Remark]:
    found = {}
    for some in portions(keys):
        for row in connection.execute(
            select(tables.remarks).where(among(tables.remarks, KEY_COLUMNS, some))
        ):
            remark = Remark(row.event_id, bytes(row.sealed), row.accept_us, row.accept_order)
            found[row.principal, row.message_id, row.subject] = remark
    return found
