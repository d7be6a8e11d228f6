"""Who came first, where several replicas accept: claims in Postgres, one a new event, taken before
the spool is written.

A claim holds the event's content and its place in the order of acceptance. It is no ack: a crash
may lie between it and the spool, so the same event may be claimed again. The sink removes it in the
commit that makes the event a row.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, select, text

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.lake.ledger import committed_fingerprints, delete_claims, transaction
from services.feedback.projections.thumbs import Change, Key, ThumbState
from services.feedback.spool.accept import Claim, Claims
from services.feedback.spool.frames import Entry

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3_600.0

# In arrays, so that the statement is the same for one event and for hundreds. Places in the order
# are given as the events arrived, but rows are taken in the order of their ids, by everybody:
# nobody waits in a ring. The time is the database's: the replicas' clocks may differ.
_CLAIM = text("""
    INSERT INTO claims (stream, event_id, fingerprint, accept_order, holders, claim_us,
                        principal, message_id, up, model_version, arm, accept_us)
    SELECT :stream, event_id, fingerprint, drawn, 1, extract(epoch FROM clock_timestamp()) * 1000000,
           principal, message_id, up, model_version, arm, accept_us
    FROM unnest(CAST(:event_id AS varchar[]), CAST(:fingerprint AS bytea[]), CAST(:principal AS varchar[]),
                CAST(:message_id AS varchar[]), CAST(:up AS boolean[]), CAST(:model_version AS varchar[]),
                CAST(:arm AS varchar[]), CAST(:accept_us AS bigint[]))
         WITH ORDINALITY AS event (event_id, fingerprint, principal, message_id, up, model_version, arm, accept_us, place)
    JOIN (SELECT drawn, row_number() OVER (ORDER BY drawn) AS place
          FROM (SELECT nextval('feedback_accept_order') AS drawn
                FROM generate_series(1, CAST(:events AS integer))) AS numbers) AS orders USING (place)
    ORDER BY event_id
    ON CONFLICT (stream, event_id) DO UPDATE SET holders = claims.holders + 1
    RETURNING event_id, fingerprint, accept_order
""")
_SWEEP = text("""
    DELETE FROM claims
    WHERE stream = :stream AND claim_us < (extract(epoch FROM clock_timestamp()) - CAST(:seconds AS float8)) * 1000000
""")


class PostgresClaims:
    """Claims of one stream. `change_of` tells what an event does to a thumb."""

    def __init__(
        self, engine: Engine, stream: str, change_of: Callable[[Entry], Change | None]
    ) -> None:
        self._engine, self._stream, self._change_of = engine, stream, change_of

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Claim events, given in the order of their acceptance. The first content of an id stands,
        here or in the ledger.

        Raises:
            UnavailableError: nothing is claimed, or it is not known.
        """
        with transaction(self._engine) as connection:
            found = self._insert_claims(connection, entries)
            # Only after the claims are ours: a commit that settled them just before is seen by now.
            committed = committed_fingerprints(
                connection, self._stream, [entry.event_id for entry in entries]
            )
            delete_claims(connection, self._stream, committed)
        return found | {
            event_id: Claim(fingerprint, 0, True) for event_id, fingerprint in committed.items()
        }

    def release(self, event_ids: Collection[str]) -> None:
        """Give back claims whose events were not stored, unless somebody else has claimed the same.
        Raises: UnavailableError.
        """
        table = tables.claims.c
        with transaction(self._engine) as connection:
            for chunk in chunks(event_ids):
                mine = (table.stream == self._stream) & table.event_id.in_(chunk)
                connection.execute(delete(tables.claims).where(mine, table.holders == 1))

    def sweep(self, older_than_seconds: float) -> int:
        """Delete claims whose events never came: of a crash between claim and spool. Returns how
        many.
        """
        with transaction(self._engine) as connection:
            return connection.execute(
                _SWEEP, {"stream": self._stream, "seconds": older_than_seconds}
            ).rowcount

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        """What the claimed thumbs and retractions say, the newest of each user on each message."""
        return await asyncio.to_thread(self._read_latest, keys)

    def _insert_claims(self, connection: Connection, entries: Sequence[Entry]) -> dict[str, Claim]:
        changes = [self._change_of(entry) for entry in entries]
        keys = [change[0] if change else None for change in changes]
        states = [change[1] if change else None for change in changes]
        columns = {
            "event_id": [entry.event_id for entry in entries],
            "fingerprint": [entry.fingerprint for entry in entries],
            "principal": [key[0] if key else None for key in keys],
            "message_id": [key[1] if key else None for key in keys],
            "up": [state.up if state else None for state in states],
            "model_version": [state.model_version if state else None for state in states],
            "arm": [state.arm if state else None for state in states],
            "accept_us": [state.accept_us if state else None for state in states],
        }
        taken = connection.execute(
            _CLAIM, {"stream": self._stream, "events": len(entries), **columns}
        )
        return {row.event_id: Claim(bytes(row.fingerprint), row.accept_order) for row in taken}

    def _read_latest(self, keys: Collection[Key] | None) -> dict[Key, ThumbState]:
        table = tables.claims.c
        query = select(tables.claims).where(
            table.stream == self._stream, table.principal.is_not(None)
        )
        if keys is not None:
            query = query.where(
                table.principal.in_({principal for principal, _ in keys}),
                table.message_id.in_({message_id for _, message_id in keys}),
            )
        found: dict[Key, ThumbState] = {}
        with transaction(self._engine) as connection:
            for row in connection.execute(query.order_by(table.accept_order)):
                found[row.principal, row.message_id] = _thumb_state(row)
        return found


def _thumb_state(row: Row[Any]) -> ThumbState:
    return ThumbState(row.up, row.model_version, row.arm, row.accept_us, row.accept_order)


async def sweep_hourly(claims: Claims, older_than_seconds: float) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            swept = await asyncio.to_thread(claims.sweep, older_than_seconds)
        except UnavailableError:
            continue
        if swept:
            log.warning("claims without an event were forgotten", extra=fields(claims=swept))
