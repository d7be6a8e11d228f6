"""Claims in Postgres for several accepting replicas, one per new event.

A claim records the content and the order of an event before the write to the spool. A claim is no
acknowledgement: after a crash between claim and spool the event is claimed again. The sink deletes
the claim in the transaction of the event's commit.

The order comes from a sequence. A failover to a standby that lags, or a restore, moves the sequence
back, and an older thumb would replace a newer one. On each new connection the sequence is therefore
raised to the database's time in microseconds, above all numbers drawn before.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from sqlalchemy import Connection, Engine, delete, select, text

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback.lake.ledger import committed_fingerprints, delete_claims
from services.feedback.projections.thumbs import Change, Key, ThumbState
from services.feedback.spool.accept import Claim, Claims
from services.feedback.spool.log import Entry, Record
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, chunks, transaction

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3_600.0

# Arrays keep the statement identical for one event and for hundreds. The order numbers follow the
# arrival of the events, but the rows are locked in the order of their ids by all replicas, so no
# deadlock can occur. The time is the database's, since the clocks of replicas may differ.
_CLAIM = text("""
    INSERT INTO claims (stream, event_id, fingerprint, accept_order, holders, claim_us,
                        principal, message_id, up, model_version, arm, accept_us)
    SELECT :stream, event_id, fingerprint, drawn, 1,
           extract(epoch FROM clock_timestamp()) * 1000000,
           principal, message_id, up, model_version, arm, accept_us
    FROM unnest(CAST(:event_id AS varchar[]), CAST(:fingerprint AS bytea[]),
                CAST(:principal AS varchar[]), CAST(:message_id AS varchar[]),
                CAST(:up AS boolean[]), CAST(:model_version AS varchar[]),
                CAST(:arm AS varchar[]), CAST(:accept_us AS bigint[]))
         WITH ORDINALITY AS event (event_id, fingerprint, principal, message_id, up,
                                   model_version, arm, accept_us, place)
    JOIN (SELECT drawn, row_number() OVER (ORDER BY drawn) AS place
          FROM (SELECT nextval('feedback_accept_order') AS drawn
                FROM generate_series(1, CAST(:events AS integer))) AS numbers) AS orders
         USING (place)
    ORDER BY event_id
    ON CONFLICT (stream, event_id) DO UPDATE SET holders = claims.holders + 1
    RETURNING event_id, fingerprint, accept_order, holders
""")
# One second of time: no more numbers are drawn while the statement below runs, so the sequence
# never moves back under a concurrent claim.
MIN_RAISE = 1_000_000
# Distance above the highest known order if the database's clock is behind as well; other replicas
# may have drawn higher numbers, at most one for each event.
MARGIN = 1_000_000_000
_LOCK_ORDER = text("SELECT pg_advisory_xact_lock(hashtext('feedback_accept_order'))")
_RAISE_ORDER = text("""
    SELECT setval('feedback_accept_order', target)
    FROM (SELECT last_value,
                 CASE WHEN clock > CAST(:highest AS bigint) THEN clock
                      WHEN last_value < CAST(:highest AS bigint)
                      THEN CAST(:above_highest AS bigint) ELSE 0 END AS target
          FROM feedback_accept_order,
               (SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS clock)
                   AS server) AS found
    WHERE last_value < target - CAST(:min_raise AS bigint)
""")
# Key in `Connection.info`, which lives as long as the connection to the server.
_RAISED = "accept_order_raised"
_SWEEP = text("""
    DELETE FROM claims
    WHERE stream = :stream
      AND claim_us < (extract(epoch FROM clock_timestamp()) - CAST(:seconds AS float8)) * 1000000
""")


class PostgresClaims:
    """Claims of one stream.

    Args:
        change_of: Returns the effect of an event on a thumb.
    """

    def __init__(
        self, engine: Engine, stream: str, change_of: Callable[[Entry], Change | None]
    ) -> None:
        self._engine, self._stream, self._change_of = engine, stream, change_of
        self._highest = 0

    def observe(self, records: Sequence[Record]) -> None:
        """Note the orders of records in the write-ahead log; later orders will be higher.

        After the start these are orders that `claim` has returned.
        """
        highest = max((record.entry.accept_order for record in records), default=0)
        if highest > self._highest:
            self._highest = highest

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        """Claim events in the order of their acceptance.

        The first content of an id wins, in the claims or in the ledger.

        Raises:
            UnavailableError: No event is claimed, or the state is unknown.
        """
        with transaction(self._engine) as connection:
            self._raise_order(connection)
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
            ).all()
            drawn = [row.accept_order for row in taken if row.holders == 1]
            if drawn and min(drawn) <= self._highest:
                # A pooler has changed the server behind an open connection.
                del connection.info[_RAISED]
                raise LedgerUnavailableError(
                    "the order of acceptance has moved back; no event was stored"
                )
            self._highest = max(drawn, default=self._highest)
            found = {row.event_id: Claim(bytes(row.fingerprint), row.accept_order) for row in taken}
            # Read the ledger after claiming: a commit that deleted these claims just before is then
            # visible.
            committed = committed_fingerprints(
                connection, self._stream, [entry.event_id for entry in entries]
            )
            delete_claims(connection, self._stream, committed)
        return found | {
            event_id: Claim(fingerprint, 0, True) for event_id, fingerprint in committed.items()
        }

    def _raise_order(self, connection: Connection) -> None:
        """Raise the sequence on a new connection, possibly to another server."""
        if _RAISED not in connection.info:
            # Replicas that raise the sequence at the same time do so one after the other.
            connection.execute(_LOCK_ORDER)
            bounds = {
                "highest": self._highest,
                "above_highest": self._highest + MARGIN,
                "min_raise": MIN_RAISE,
            }
            if connection.execute(_RAISE_ORDER, bounds).first():
                log.info("order of acceptance raised", extra=fields(stream=self._stream))
            connection.info[_RAISED] = True

    def release(self, event_ids: Collection[str]) -> None:
        """Release claims without a stored event, except claims shared with another replica.

        Raises:
            UnavailableError: The database does not answer.
        """
        table = tables.claims.c
        with transaction(self._engine) as connection:
            for chunk in chunks(event_ids):
                mine = (table.stream == self._stream) & table.event_id.in_(chunk)
                connection.execute(delete(tables.claims).where(mine, table.holders == 1))

    def sweep(self, older_than_seconds: float) -> int:
        """Delete claims left by a crash between claim and spool, and return their number."""
        with transaction(self._engine) as connection:
            return connection.execute(
                _SWEEP, {"stream": self._stream, "seconds": older_than_seconds}
            ).rowcount

    async def latest(self, keys: Collection[Key] | None) -> Mapping[Key, ThumbState]:
        """Return the newest claimed thumb or retraction of each user on each message."""
        return await run_to_end(self._read_latest, keys)

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
                found[row.principal, row.message_id] = ThumbState(
                    row.up, row.model_version, row.arm, row.accept_us, row.accept_order
                )
        return found


async def sweep_hourly(claims: Claims, older_than_seconds: float) -> None:
    """Delete stale claims every hour until cancelled."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            swept = await run_to_end(claims.sweep, older_than_seconds)
        except UnavailableError:
            continue
        if swept:
            log.warning("stale claims deleted", extra=fields(claims=swept))
