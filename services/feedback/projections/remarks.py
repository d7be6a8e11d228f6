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
from services.feedback.chunks import chunks
from services.feedback.events import Correction, FeedbackEvent, Retraction, Subject, Thumb, Words
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger, transaction
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.retracted import retracted_answers
from services.feedback.principals.sealing import MIN_SEALED_BYTES, DataKey, unseal
from services.feedback.projections.latest_values import key_in, newer, upsert_latest
from services.feedback.projections.projection import Projection, advance_position
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.sink.sink import Position
from services.feedback.spool.frames import Record

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
    remark = Remark(event.event_id, _without_empty(event.sealed), event.accept_us, accept_order)
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
    remark = Remark(str(row["event_id"]), _without_empty(sealed), accept_us, accept_order)
    return (str(row["principal"]), str(row["message_id"]), str(subject)), remark


def _without_empty(sealed: bytes) -> bytes:
    """Events without words are sealed too, and exactly so long."""
    return sealed if len(sealed) > MIN_SEALED_BYTES else b""


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Move the table by one batch, inside the ledger's transaction."""
    changes = (change_of(event, record.entry.accept_order) for record, event in kept)
    _apply(connection, [change for change in changes if change])
    advance_position(connection, tables.remark_positions, position)


def delete_remarks(connection: Connection, about: Collection[tuple[str, str]]) -> None:
    """Remove what principals said about answers that were taken back."""
    for chunk in chunks(about):
        connection.execute(
            delete(tables.remarks).where(key_in(tables.remarks, KEY_COLUMNS[:2], chunk))
        )


class PendingRemarks(Protocol):
    """Remarks that the table may not have yet."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """Those about some keys, or all. Ask before reading the table: one may be in both, never in
        neither.
        """


class NoPendingRemarks:
    """Where many processes accept, nobody has all spools: words stand once the table has them."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """None."""
        return {}


class Keys(Protocol):
    """Keys of principals."""

    def existing(self, principals: Collection[str]) -> Mapping[str, DataKey]:
        """Those that there are. Raises: UnavailableError."""


class Remarks:
    """Answers from the table and what is pending, together. `words_from` reads what was sealed."""

    def __init__(
        self,
        engine: Engine,
        pending: PendingRemarks,
        keys: Keys,
        decode_words: Callable[[bytes], Words],
    ) -> None:
        self._engine, self._pending, self._keys, self._words_from = (
            engine,
            pending,
            keys,
            decode_words,
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
        pending = await self._pending.latest(keys)
        remarks = await asyncio.to_thread(self._committed, keys)
        remarks |= newer(pending, remarks)
        visible = {
            (message_id, subject): remark
            for (_, message_id, subject), remark in remarks.items()
            if remark.sealed
            and (subject != Subject.THUMB or thumbs_us.get(message_id) == remark.accept_us)
        }
        return await asyncio.to_thread(self._unsealed, principal, visible) if visible else {}

    def _committed(self, keys: set[Key]) -> dict[Key, Remark]:
        with transaction(self._engine) as connection:
            return _read_remarks(connection, keys)

    def _unsealed(
        self, principal: str, visible: Mapping[tuple[str, str], Remark]
    ) -> dict[str, Words]:
        key, found = self._keys.existing([principal]).get(principal), dict[str, Words]()
        # Words that came after their answer was taken back stand until the next compaction.
        with transaction(self._engine) as connection:
            gone = retracted_answers(connection, {message_id for message_id, _ in visible})
        for (message_id, subject), remark in visible.items():
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
        Projection(tables.remarks, tables.remark_positions, _apply_rows), ledger, store, stream
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


def _apply_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
    _apply(connection, map(change_of_row, rows))


def _apply(connection: Connection, changes: Iterable[Change]) -> None:
    upsert_latest(connection, tables.remarks, KEY_COLUMNS, changes, _read_remarks)


def _read_remarks(connection: Connection, keys: Collection[Key]) -> dict[Key, Remark]:
    found = {}
    for chunk in chunks(keys):
        for row in connection.execute(
            select(tables.remarks).where(key_in(tables.remarks, KEY_COLUMNS, chunk))
        ):
            remark = Remark(row.event_id, bytes(row.sealed), row.accept_us, row.accept_order)
            found[row.principal, row.message_id, row.subject] = remark
    return found
