"""Latest comment and correction per user and message, readable only by that user.

A remark is either the reasons and comment of a thumb, or a correction. Texts are stored sealed, as
in the log, in a table updated in the ledger's transaction; an erasure removes key and rows. Texts
are unsealed for a single response and never cached.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sqlalchemy import Connection, Engine, delete, select

from services.contracts.feedback import Correction, Retraction, Subject, Thumb
from services.feedback.events import FeedbackEvent, Words
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.removed_rows import retracted_answers
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.sealing import MIN_SEALED_BYTES, unseal
from services.feedback.projections.projection import (
    Projection,
    advance_position,
    key_in,
    newer,
    upsert_latest,
)
from services.feedback.projections.projection import catch_up as rebuild
from services.feedback.sink import Position
from services.feedback.spool.log import Record
from services.feedback.store import tables
from services.feedback.store.database import chunks, transaction

KEY_COLUMNS = ("principal", "message_id", "subject")
Key = tuple[str, str, str]
"""Principal, message id and subject of a remark."""


@dataclass(frozen=True)
class Remark:
    """Sealed texts of one event; `sealed` is empty for a retraction or an event without text."""

    event_id: str
    sealed: bytes
    accept_us: int
    accept_order: int = 0

    def replaces(self, other: "Remark | None") -> bool:
        """Return True if this remark replaces another one, as in `ThumbState.replaces`."""
        return other is None or self.accept_order >= other.accept_order


Change = tuple[Key, Remark]


def change_of(event: FeedbackEvent, accept_order: int) -> Change | None:
    """Return the effect of an event on the remarks, or None without an effect.

    Words of reviewers are not shown to the user.
    """
    if event.rater:
        return None
    match event.value:
        case Thumb():
            subject: str = Subject.THUMB
        case Correction():
            subject = Subject.CORRECTION
        case Retraction(subject=subject):
            pass
        case _:
            return None
    remark = Remark(event.event_id, _without_empty(event.sealed), event.accept_us, accept_order)
    return (event.principal, event.message_id, str(subject)), remark


def change_of_row(row: parquet.Row) -> Change | None:
    """Return the effect of a row on the remarks, or None without an effect.

    Rows of the first version are unsealed and yield no texts.
    """
    if row.get("rater") or row["kind"] not in {"thumb", "correction", "retraction"}:
        return None
    subject = row["retracts"] or row["kind"]
    sealed = row.get("sealed") or b""
    accept_us = row["accept_time"]
    accept_order = row.get("accept_order") or 0
    assert isinstance(sealed, bytes)
    assert isinstance(accept_us, int)
    assert isinstance(accept_order, int)
    remark = Remark(str(row["event_id"]), _without_empty(sealed), accept_us, accept_order)
    return (str(row["principal"]), str(row["message_id"]), str(subject)), remark


def _without_empty(sealed: bytes) -> bytes:
    """Return empty bytes for events without texts, which are sealed to the minimum length."""
    return sealed if len(sealed) > MIN_SEALED_BYTES else b""


def fold(
    connection: Connection, position: Position, kept: Sequence[tuple[Record, FeedbackEvent]]
) -> None:
    """Update the table from one batch, inside the ledger's transaction."""
    changes = (change_of(event, record.entry.accept_order) for record, event in kept)
    _apply(connection, [change for change in changes if change])
    advance_position(connection, tables.remark_positions, position)


def delete_remarks(connection: Connection, about: Collection[tuple[str, str]]) -> None:
    """Delete the remarks of principals on retracted answers."""
    for chunk in chunks(about):
        connection.execute(
            delete(tables.remarks).where(key_in(tables.remarks, KEY_COLUMNS[:2], chunk))
        )


class PendingRemarks(Protocol):
    """Remarks that the table may not contain yet."""

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """Return the pending remarks of some keys, or of all keys with None.

        Call before reading the table: a remark may then be in both, never in neither.
        """


class NoPendingRemarks:
    """Empty overlay for several replicas, since no replica has all spools.

    Texts become visible with the commit to the table.
    """

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, Remark]:
        """Return an empty mapping."""
        return {}


class Remarks:
    """Reader of the table and the pending remarks.

    Args:
        decode_words: Parses unsealed bytes.
    """

    def __init__(
        self,
        engine: Engine,
        pending: PendingRemarks,
        keys: DataKeys,
        decode_words: Callable[[bytes], Words],
    ) -> None:
        self._engine = engine
        self._pending = pending
        self._keys = keys
        self._words_from = decode_words

    async def get(
        self, principal: str, message_ids: Sequence[str], thumbs_us: Mapping[str, int]
    ) -> dict[str, Words]:
        """Return message id → texts of the user.

        Args:
            thumbs_us: Acceptance times of the current thumbs; texts of other thumbs are omitted.

        Raises:
            UnavailableError: The database is unavailable, or the master key differs.
        """
        keys = {
            (principal, message_id, str(subject))
            for message_id in message_ids
            for subject in Subject
        }
        pending = await self._pending.latest(keys)

        def read() -> dict[Key, Remark]:
            with transaction(self._engine) as connection:
                return _read_remarks(connection, keys)

        # Read the pending texts first: a text that is committed in between is then in both.
        remarks = await asyncio.to_thread(read)
        remarks |= newer(pending, remarks)
        visible = {
            (message_id, subject): remark
            for (_, message_id, subject), remark in remarks.items()
            if remark.sealed
            and (subject != Subject.THUMB or thumbs_us.get(message_id) == remark.accept_us)
        }
        return await asyncio.to_thread(self._unsealed, principal, visible) if visible else {}

    def _unsealed(
        self, principal: str, visible: Mapping[tuple[str, str], Remark]
    ) -> dict[str, Words]:
        key, found = self._keys.existing([principal]).get(principal), dict[str, Words]()
        # Remarks that arrived after the retraction of their answer stay in the table until the next
        # compaction.
        with transaction(self._engine) as connection:
            retracted = retracted_answers(connection, {message_id for message_id, _ in visible})
        for (message_id, subject), remark in visible.items():
            texts = (
                unseal(remark.sealed, key, remark.event_id, principal)
                if key and message_id not in retracted
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
    """Rebuild outdated remarks and return True after a rebuild."""

    def apply_rows(connection: Connection, rows: Sequence[parquet.Row]) -> None:
        _apply(connection, [change for row in rows if (change := change_of_row(row))])

    projection = Projection(tables.remarks, tables.remark_positions, apply_rows)
    return rebuild(projection, ledger, store, stream)


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
