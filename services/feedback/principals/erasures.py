"""The erasure ledger: one transaction shreds a principal's key, writes that down, and removes what
stands in tables.

It holds the rows of all streams, as a commit holds the row of its own: so each commit comes before
or after an erasure, and what was accepted before and is committed after is found by its key id.
Numbers have no gaps, and readers who page see them in order.
"""

import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from services.chassis.errors import NotFoundError
from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.database import scrub
from services.feedback.events import Stream
from services.feedback.lake.ledger import lock_stream, transaction
from services.feedback.principals.data_keys import shred
from services.feedback.principals.erased_rows import ErasedRowMask, erased_row_mask

log = logging.getLogger(__name__)

ERASURES_PER_PAGE = 1_000


@dataclass(frozen=True)
class Erasure:
    """One entry. Times in microseconds since 1970; `rewrite_us` is None until no object holds
    sealed rows of it any more.
    """

    number: int
    erasure_id: str
    principal: str
    request_us: int
    shred_us: int
    rewrite_us: int | None


@dataclass(frozen=True)
class PendingErasures:
    """Erasures whose rows still lie in objects, though nobody can read them; `oldest_us` is when
    the first was asked for.
    """

    erasures: int
    oldest_us: int | None


@dataclass(frozen=True)
class StreamErasures:
    """What was erased by now, for whoever rewrites the objects of one stream."""

    rows: ErasedRowMask
    # Segments up to this sequence may hold gone rows; None: none does.
    through_sequence: int | None
    _number: int
    _mark_rewritten: Callable[[int], None]

    def mask(self, rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
        """True where a row is gone. `rows` has the columns of its files, and `sequence`."""
        return self.rows.mask(rows)

    def mark_rewritten(self) -> None:
        """No object of the stream holds such a row any more. Raises: LedgerUnavailableError."""
        self._mark_rewritten(self._number)


class Erasures:
    """Safe to call from several threads; every call blocks and raises LedgerUnavailableError."""

    def __init__(
        self,
        engine: Engine,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        page: int = ERASURES_PER_PAGE,
    ) -> None:
        self._engine, self._now_us, self._page = engine, now_us, page

    def erase(self, principal: str, tenant: str) -> tuple[Erasure, bool]:
        """Make unreadable what the principal said until now; False beside it: nothing since the
        last erasure, which is returned.
        """
        request_us = self._now_us()
        with transaction(self._engine) as connection:
            streams = {str(stream): lock_stream(connection, stream) for stream in sorted(Stream)}
            key_id = shred(connection, principal)
            if key_id is None and (last := _last_erasure(connection, principal)):
                return last, False
            erasure = self._insert_erasure(
                connection, principal, tenant, key_id, request_us, streams
            )
            _delete_projections(connection, principal)
        # The key's row is gone; on SQLite its bytes are gone now too.
        if not scrub(self._engine):
            log.warning("a shredded key is in the write-ahead log until its readers have gone")
        return erasure, True

    def get(self, principal: str, erasure_id: str) -> Erasure:
        """One of the principal. Raises: NotFoundError."""
        table = tables.erasures.c
        mine = (table.principal == principal) & (table.erasure_id == erasure_id)
        with transaction(self._engine) as connection:
            row = connection.execute(select(tables.erasures).where(mine)).first()
        if row is None:
            raise NotFoundError("no such erasure of this user")
        return _erasure(row)

    def after(self, number: int) -> list[Erasure]:
        """The next entries in order, at most a page."""
        table = tables.erasures.c
        query = (
            select(tables.erasures)
            .where(table.number > number)
            .order_by(table.number)
            .limit(self._page)
        )
        with transaction(self._engine) as connection:
            return [_erasure(row) for row in connection.execute(query)]

    def last(self, principals: Collection[str]) -> dict[str, int]:
        """When those who were ever erased last asked for it, in microseconds since 1970."""
        table, found = tables.erasures.c, {}
        with transaction(self._engine) as connection:
            for chunk in chunks(principals):
                query = select(table.principal, func.max(table.request_us)).where(
                    table.principal.in_(chunk)
                )
                found.update(
                    {row[0]: row[1] for row in connection.execute(query.group_by(table.principal))}
                )
        return found

    def pending(self) -> PendingErasures:
        """Those that are not rewritten yet."""
        table = tables.erasures.c
        query = select(func.count(), func.min(table.request_us)).where(table.rewrite_us.is_(None))
        with transaction(self._engine) as connection:
            return PendingErasures(*connection.execute(query).one())

    def for_stream(self, stream: str) -> StreamErasures:
        """As of now; later erasures are the next one's."""
        reaches = tables.erasure_reaches.c
        furthest = select(func.max(reaches.sequence)).where(
            reaches.stream == stream, reaches.rewrite_us.is_(None)
        )
        with transaction(self._engine) as connection:
            # First: an erasure that comes between these queries is in what they find, and is not
            # said to be done.
            number = _last_number(connection)
            through_sequence = connection.execute(furthest).scalar()
            return StreamErasures(
                erased_row_mask(connection, stream),
                through_sequence,
                number,
                partial(self._mark_rewritten, stream),
            )

    def _mark_rewritten(self, stream: str, number: int) -> None:
        now_us, reaches, table = self._now_us(), tables.erasure_reaches, tables.erasures
        with transaction(self._engine) as connection:
            done = (
                (reaches.c.stream == stream)
                & (reaches.c.number <= number)
                & reaches.c.rewrite_us.is_(None)
            )
            connection.execute(update(reaches).where(done).values(rewrite_us=now_us))
            pending = select(reaches.c.number).where(reaches.c.rewrite_us.is_(None))
            completed = (
                (table.c.number <= number)
                & table.c.rewrite_us.is_(None)
                & table.c.number.not_in(pending)
            )
            connection.execute(update(table).where(completed).values(rewrite_us=now_us))

    def _insert_erasure(
        self,
        connection: Connection,
        principal: str,
        tenant: str,
        key_id: bytes | None,
        request_us: int,
        streams: Mapping[str, tuple[int, int]],
    ) -> Erasure:
        """Where no row can be the principal's, nothing has to be rewritten."""
        number = 1 + _last_number(connection)
        now_us = self._now_us()
        reaches: list[dict[str, Any]] = [
            {
                "number": number,
                "stream": stream,
                "sequence": sequence,
                "rewrite_us": None if (sequence if key_id else plain_sequence) else now_us,
            }
            for stream, (sequence, plain_sequence) in streams.items()
        ]
        is_done = all(reach["rewrite_us"] for reach in reaches)
        erasure = Erasure(
            number, str(uuid.uuid4()), principal, request_us, now_us, now_us if is_done else None
        )
        connection.execute(
            insert(tables.erasures).values(**vars(erasure), tenant=tenant, key_id=key_id)
        )
        connection.execute(insert(tables.erasure_reaches), reaches)
        return erasure


def _last_number(connection: Connection) -> int:
    return connection.execute(select(func.max(tables.erasures.c.number))).scalar() or 0


def _last_erasure(connection: Connection, principal: str) -> Erasure | None:
    table = tables.erasures.c
    query = (
        select(tables.erasures)
        .where(table.principal == principal)
        .order_by(table.number.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return _erasure(row) if row else None


def _delete_projections(connection: Connection, principal: str) -> None:
    """Thumbs, words, exposures, and the thumbs of claims. Claims are locked in the order in which
    everybody locks them.
    """
    for table in (tables.thumbs, tables.remarks, tables.exposures):
        connection.execute(delete(table).where(table.c.principal == principal))
    claims = tables.claims
    mine = claims.c.principal == principal
    connection.execute(
        select(claims.c.event_id).where(mine).order_by(claims.c.event_id).with_for_update()
    ).all()
    nothing = dict.fromkeys(("principal", "message_id", "up", "model_version", "arm", "accept_us"))
    connection.execute(update(claims).where(mine).values(nothing))


def _erasure(row: Row[Any]) -> Erasure:
    names = ("number", "erasure_id", "principal", "request_us", "shred_us", "rewrite_us")
    return Erasure(**{name: getattr(row, name) for name in names})
