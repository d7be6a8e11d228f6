"""Data keys: one wrapped key per principal in the database.

The key is created with the first event and deleted by an erasure; later events get a new key. Keys
are never cached: another replica may have erased the principal a moment ago, and later events must
not be sealed under a shredded key.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping

from sqlalchemy import Connection, Engine, Row, select, text

from services.chassis.errors import DetailedError, UnavailableError
from services.feedback.principals.sealing import (
    KEY_BYTES,
    KEY_ID_BYTES,
    DataKey,
    MasterKey,
    MasterKeyError,
)
from services.feedback.store import tables
from services.feedback.store.database import chunks, transaction

# The first writer inserts the key. A concurrent writer waits for the row lock and gets the same
# key. The update changes no value but is required for RETURNING.
_INSERT_OR_GET = text("""
    INSERT INTO data_keys (principal, tenant, key_id, wrapped_key, create_us)
    VALUES (:principal, :tenant, :key_id, :wrapped_key, :create_us)
    ON CONFLICT (principal) DO UPDATE SET tenant = data_keys.tenant
    RETURNING principal, tenant, key_id, wrapped_key
""")


# Row of the key of the fingerprints, wrapped like data keys. The name is no principal, which has 64
# hexadecimal digits. Without this row a new master key would change the fingerprints, and an event
# that is sent again would count as another content under a used id.
FINGERPRINTS, NO_TENANT = "fingerprints", ""


class FingerprintKeyMissingError(DetailedError):
    """Master key rotates before this version has stored the key of the fingerprints.

    The new master key would derive another key, under which events that are sent again are refused.
    """

    reason = "FINGERPRINT_KEY_MISSING"


class DataKeys:
    """Data keys in the database; thread-safe, and every call blocks."""

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
        """Return the key of each principal, and create missing keys.

        Args:
            tenants: Tenant of each principal.

        Raises:
            UnavailableError: The database is unavailable, or another master key wrapped the keys.
        """
        found = self.existing(tenants)
        # Insert in sorted order, so that concurrent writers lock rows in the same order.
        missing = sorted(tenants.keys() - found.keys())
        if missing:
            rows: list[Row[tuple[str, str, bytes, bytes]]] = []
            with transaction(self._engine) as connection:
                for principal in missing:
                    key = self._random_bytes(KEY_BYTES)
                    rows.append(self._insert(connection, principal, tenants[principal], key))
                found |= self._unwrap(rows)
        return found

    def existing(self, principals: Collection[str]) -> dict[str, DataKey]:
        """Return the existing keys of some principals.

        Raises:
            UnavailableError: The database is unavailable, or another master key wrapped the keys.
        """
        table = tables.data_keys
        with transaction(self._engine) as connection:
            rows = [
                row
                for some in chunks(principals)
                for row in connection.execute(select(table).where(table.c.principal.in_(some)))
            ]
        return self._unwrap(rows)

    def fingerprint_key(self) -> bytes:
        """Return the key of the fingerprints, which no rotation of the master key changes.

        The first call stores the key that the present master key derives.

        Raises:
            FingerprintKeyMissingError: The key is missing during a rotation.
            UnavailableError: The database is unavailable, or another master key wrapped the key.
        """
        if found := self.existing([FINGERPRINTS]):
            return found[FINGERPRINTS].key
        with transaction(self._engine) as connection:
            if self._master.is_rotating:
                _require_fingerprint_key(connection)
            row = self._insert(connection, FINGERPRINTS, NO_TENANT, self._master.fingerprint_key)
        return self._unwrap([row])[FINGERPRINTS].key

    def check(self) -> None:
        """Check the master key against a stored key.

        Raises:
            MasterKeyError: Another master key wrapped the stored key.
            LedgerUnavailableError: The database does not answer.
        """
        with transaction(self._engine) as connection:
            if row := connection.execute(select(tables.data_keys).limit(1)).first():
                self._master.unwrap(bytes(row.wrapped_key), row.tenant, row.principal)

    def require_fingerprint_key(self) -> None:
        """Check whether a rotation of the master key would change the fingerprints.

        Raises:
            FingerprintKeyMissingError: Data keys exist, and no key of the fingerprints.
            LedgerUnavailableError: The database does not answer.
        """
        with transaction(self._engine) as connection:
            _require_fingerprint_key(connection)

    def _insert(
        self, connection: Connection, principal: str, tenant: str, key: bytes
    ) -> Row[tuple[str, str, bytes, bytes]]:
        """Insert a wrapped key, and return the stored row; an existing row is unchanged."""
        values = {
            "principal": principal,
            "tenant": tenant,
            "wrapped_key": self._master.wrap(key, tenant, principal),
            "create_us": self._now_us(),
            "key_id": self._random_bytes(KEY_ID_BYTES),
        }
        return connection.execute(_INSERT_OR_GET, values).one()

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
            raise UnavailableError(
                "data keys do not open under the master key", reason="FEEDBACK_MASTER_KEY"
            ) from error


def _require_fingerprint_key(connection: Connection) -> None:
    principal = tables.data_keys.c.principal
    found = connection.execute(select(principal).where(principal == FINGERPRINTS)).first()
    if not found and connection.execute(select(principal).limit(1)).first():
        raise FingerprintKeyMissingError(
            "the database has data keys of an earlier version; start this version once with the "
            "previous key as master_key and without accepted_master_keys, then rotate",
            field="accepted_master_keys",
        )


def shred(connection: Connection, principal: str) -> bytes | None:
    """Delete the key of a principal and return its id, or None without a key."""
    table = tables.data_keys
    deleted = connection.execute(
        table.delete().where(table.c.principal == principal).returning(table.c.key_id)
    )
    key_id = deleted.scalar()
    return None if key_id is None else bytes(key_id)
