"""Erasure ledger: one transaction shreds the key, records the erasure, and deletes projections.

The transaction locks the rows of all streams, as a commit locks its own. Each commit is therefore
entirely before or after an erasure, and events accepted before but committed after are recognised
by their key id. Numbers have no gaps, and paging readers see them in order.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import pyarrow as pa
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update

from services.chassis.audit.acts import Act, calling_service
from services.chassis.errors import NotFoundError, UnavailableError
from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback import metrics
from services.feedback.events import Stream
from services.feedback.lake.ledger import lock_stream
from services.feedback.lake.removed_rows import ErasedRowMask, erased_row_mask
from services.feedback.principals.data_keys import shred
from services.feedback.store import tables
from services.feedback.store.database import chunks, scrub, transaction

log = logging.getLogger(__name__)

ERASURES_PER_PAGE = 1_000
# Tables with rows of a principal that an erasure deletes.
PROJECTIONS = (
    tables.thumbs,
    tables.remarks,
    tables.exposures,
    tables.answers,
    tables.signals,
)


@dataclass(frozen=True)
class Erasure:
    """Entry of the erasure ledger, with times in microseconds since 1970.

    `rewrite_us` is None until all sealed rows of the key have left the objects.
    """

    number: int
    erasure_id: str
    principal: str
    request_us: int
    shred_us: int
    rewrite_us: int | None


@dataclass(frozen=True)
class PendingErasures:
    """Erasures with unreadable rows still in objects; `oldest_us` is the oldest request."""

    erasures: int
    oldest_us: int | None


@dataclass(frozen=True)
class StreamErasures:
    """Erasures so far, for the rewriting of one stream's objects."""

    rows: ErasedRowMask
    # Last sequence of segments with erased rows; None without such rows.
    through_sequence: int | None
    _number: int
    _mark_rewritten: Callable[[int], None]

    def mask(self, rows: pa.Table) -> pa.BooleanArray | pa.ChunkedArray:
        """Return a mask of the erased rows.

        Args:
            rows: Table with the columns of its files and `sequence`.
        """
        return self.rows.mask(rows)

    def mark_rewritten(self) -> None:
        """Record that no object of the stream contains such a row.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        self._mark_rewritten(self._number)


class Erasures:
    """Erasure ledger in the database.

    All methods are thread-safe, block, and raise LedgerUnavailableError.
    """

    def __init__(
        self,
        engine: Engine,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        page: int = ERASURES_PER_PAGE,
    ) -> None:
        self._engine, self._now_us, self._page = engine, now_us, page

    def erase(self, principal: str, tenant: str) -> tuple[Erasure, bool]:
        """Erase all feedback of a principal so far and return (erasure, created).

        `created` is False if no event was written since the last erasure, which is then returned.
        """
        request_us = self._now_us()
        with transaction(self._engine) as connection:
            # Sorted, so that concurrent erasures lock the streams in the same order.
            streams = {str(stream): lock_stream(connection, stream) for stream in sorted(Stream)}
            key_id = shred(connection, principal)
            if key_id is None:
                erasures = tables.erasures.c
                query = select(tables.erasures).where(erasures.principal == principal)
                newest = connection.execute(query.order_by(erasures.number.desc()).limit(1)).first()
                if newest:
                    return _erasure(newest), False
            erasure = self._insert_erasure(
                connection, principal, tenant, key_id, request_us, streams
            )
            act = Act("user erased", calling_service(), erasure.erasure_id)
            connection.execute(insert(tables.audit).values(act.record()))
            # Delete the rows of projections, and clear thumbs in claims. Claims are locked in the
            # common order, to avoid deadlocks.
            for table in PROJECTIONS:
                connection.execute(delete(table).where(table.c.principal == principal))
            claims = tables.claims
            mine = claims.c.principal == principal
            connection.execute(
                select(claims.c.event_id).where(mine).order_by(claims.c.event_id).with_for_update()
            ).all()
            nothing = dict.fromkeys(
                ("principal", "message_id", "up", "model_version", "arm", "accept_us")
            )
            connection.execute(update(claims).where(mine).values(nothing))
        act.log()
        # The row of the key is deleted; on SQLite the scrub also removes its bytes.
        if not scrub(self._engine):
            log.warning("shredded key remains in the write-ahead log until its readers end")
        return erasure, True

    def get(self, principal: str, erasure_id: str) -> Erasure:
        """Return an erasure of the principal.

        Raises:
            NotFoundError: The principal has no such erasure.
        """
        table = tables.erasures.c
        mine = (table.principal == principal) & (table.erasure_id == erasure_id)
        with transaction(self._engine) as connection:
            row = connection.execute(select(tables.erasures).where(mine)).first()
        if row is None:
            raise NotFoundError("no such erasure for this user")
        return _erasure(row)

    def after(self, number: int) -> list[Erasure]:
        """Return the next entries in order, at most one page."""
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
        """Return the last request time of erased principals, in microseconds since 1970."""
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
        """Return the number and age of erasures not rewritten yet."""
        table = tables.erasures.c
        query = select(func.count(), func.min(table.request_us)).where(table.rewrite_us.is_(None))
        with transaction(self._engine) as connection:
            return PendingErasures(*connection.execute(query).one())

    def for_stream(self, stream: str) -> StreamErasures:
        """Return the erasures of a stream so far; later erasures belong to the next call."""
        erasure_ranges = tables.erasure_reaches.c
        furthest = select(func.max(erasure_ranges.sequence)).where(
            erasure_ranges.stream == stream, erasure_ranges.rewrite_us.is_(None)
        )
        with transaction(self._engine) as connection:
            # Read the number first: an erasure between these queries is then found, but not marked
            # as done.
            number = _last_number(connection)
            through_sequence = connection.execute(furthest).scalar()
            return StreamErasures(
                erased_row_mask(connection, stream),
                through_sequence,
                number,
                partial(self._mark_rewritten, stream),
            )

    def _mark_rewritten(self, stream: str, number: int) -> None:
        now_us, erasure_ranges, table = self._now_us(), tables.erasure_reaches, tables.erasures
        with transaction(self._engine) as connection:
            done = (
                (erasure_ranges.c.stream == stream)
                & (erasure_ranges.c.number <= number)
                & erasure_ranges.c.rewrite_us.is_(None)
            )
            connection.execute(update(erasure_ranges).where(done).values(rewrite_us=now_us))
            pending = select(erasure_ranges.c.number).where(erasure_ranges.c.rewrite_us.is_(None))
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
        """Insert an erasure. Streams without rows of the principal need no rewrite."""
        number = 1 + _last_number(connection)
        now_us = self._now_us()
        erasure_ranges: list[dict[str, Any]] = [
            {
                "number": number,
                "stream": stream,
                "sequence": sequence,
                "rewrite_us": None if (sequence if key_id else plain_sequence) else now_us,
            }
            for stream, (sequence, plain_sequence) in streams.items()
        ]
        is_done = all(erasure_range["rewrite_us"] for erasure_range in erasure_ranges)
        erasure = Erasure(
            number, str(uuid.uuid4()), principal, request_us, now_us, now_us if is_done else None
        )
        connection.execute(
            insert(tables.erasures).values(**vars(erasure), tenant=tenant, key_id=key_id)
        )
        connection.execute(insert(tables.erasure_reaches), erasure_ranges)
        return erasure


def _last_number(connection: Connection) -> int:
    return connection.execute(select(func.max(tables.erasures.c.number))).scalar() or 0


def _erasure(row: Row[Any]) -> Erasure:
    names = ("number", "erasure_id", "principal", "request_us", "shred_us", "rewrite_us")
    return Erasure(**{name: getattr(row, name) for name in names})


REFRESH_SECONDS = 15.0


class ErasureLedger(Protocol):
    """Source of the pending erasures."""

    def pending(self) -> PendingErasures:
        """Return the erasures not rewritten yet.

        Raises:
            UnavailableError: The database does not answer.
        """


async def update_metrics_periodically(
    erasures: ErasureLedger, seconds: float = REFRESH_SECONDS
) -> None:
    """Update the metrics until cancelled.

    While the database is unavailable the last count stays, and the age of the oldest erasure still
    grows.
    """
    pending = PendingErasures(0, None)
    while True:
        try:
            pending = await run_to_end(erasures.pending)
        except UnavailableError as error:
            log.warning("erasures not counted", extra=fields(reason=error.reason))
        metrics.ERASURES_WAITING.set(pending.erasures)
        since = pending.oldest_us
        metrics.ERASURE_OLDEST_SECONDS.set(
            0.0 if since is None else max(0.0, time.time() - since / 1_000_000)
        )
        await asyncio.sleep(seconds)
