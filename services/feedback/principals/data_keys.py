"""One key a principal, wrapped, in the database: made at the first event, gone with an erasure, and
then another one.

Never remembered here: another replica may have erased a moment ago, and what is said after that
must not be sealed by a dead key.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection, Engine, Row, select, text

from services.chassis.errors import UnavailableError
from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.lake.ledger import transaction
from services.feedback.principals.master_key import MasterKey, MasterKeyError
from services.feedback.principals.sealing import KEY_BYTES, KEY_ID_BYTES, DataKey

# The first who comes makes the key; who comes at the same time waits for that row, and has it too.
# The update changes nothing: without it nothing would be returned.
_INSERT_OR_GET = text("""
    INSERT INTO data_keys (principal, tenant, key_id, wrapped_key, create_us)
    VALUES (:principal, :tenant, :key_id, :wrapped_key, :create_us)
    ON CONFLICT (principal) DO UPDATE SET tenant = data_keys.tenant
    RETURNING principal, tenant, key_id, wrapped_key
""")


class DataKeys:
    """Safe to call from several threads; every call blocks."""

    def __init__(
        self,
        engine: Engine,
        master: MasterKey,
        random_bytes: Callable[[int], bytes] = os.urandom,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._engine, self._master = engine, master
        self._random_bytes, self._now_us = random_bytes, now_us

    def get_or_create(self, tenants: Mapping[str, str]) -> dict[str, DataKey]:
        """The key of each principal, given with its tenant; made where there is none.

        Raises:
            UnavailableError: the database is away, or the master key is not the one that wrapped
                them.
        """
        found = self.existing(tenants)
        missing = sorted(tenants.keys() - found.keys())
        if missing:
            with transaction(self._engine) as connection:
                found |= self._unwrap(
                    [self._insert_or_get(connection, name, tenants[name]) for name in missing]
                )
        return found

    def existing(self, principals: Collection[str]) -> dict[str, DataKey]:
        """Those that there are. Raises: UnavailableError, as `of`."""
        table = tables.data_keys
        with transaction(self._engine) as connection:
            rows = [
                row
                for some in chunks(principals)
                for row in connection.execute(select(table).where(table.c.principal.in_(some)))
            ]
        return self._unwrap(rows)

    def check(self) -> None:
        """That the master key is the one that wrapped what is there. Raises: MasterKeyError,
        LedgerUnavailableError.
        """
        with transaction(self._engine) as connection:
            if row := connection.execute(select(tables.data_keys).limit(1)).first():
                self._master.unwrap(bytes(row.wrapped_key), row.tenant, row.principal)

    def _insert_or_get(
        self, connection: Connection, principal: str, tenant: str
    ) -> Row[tuple[str, str, bytes, bytes]]:
        wrapped = self._master.wrap(self._random_bytes(KEY_BYTES), tenant, principal)
        values = {
            "principal": principal,
            "tenant": tenant,
            "wrapped_key": wrapped,
            "create_us": self._now_us(),
        }
        return connection.execute(
            _INSERT_OR_GET, {**values, "key_id": self._random_bytes(KEY_ID_BYTES)}
        ).one()

    def _unwrap(self, rows: Collection[Row[tuple[str, str, bytes, bytes]]]) -> dict[str, DataKey]:
        try:
            return {
                row.principal: DataKey(
                    bytes(row.key_id),
                    self._master.unwrap(bytes(row.wrapped_key), row.tenant, row.principal),
                )
                for row in rows
            }
        except MasterKeyError as error:
            raise UnavailableError("data keys do not open", reason="FEEDBACK_MASTER_KEY") from error


def shred(connection: Connection, principal: str) -> bytes | None:
    """Delete a principal's key; its id, or None if there was none."""
    table = tables.data_keys
    deleted = connection.execute(
        table.delete().where(table.c.principal == principal).returning(table.c.key_id)
    )
    key_id = deleted.scalar()
    return None if key_id is None else bytes(key_id)
