"""Rotation of the master key: data keys are wrapped again while the service runs.

Texts are not encrypted again, because their data keys stay the same. Every replica accepts both
master keys until the end. The command may be killed and repeated at any time: it changes a row only
if the row is unchanged since it was read, and rows under the new key need no change.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, select, update

from services.feedback.principals.sealing import MasterKey, MasterKeyError
from services.feedback.store import tables
from services.feedback.store.database import scrub, transaction

KEYS_PER_PAGE = 500


@dataclass(frozen=True)
class _Row:
    """A wrapped key with the tenant and principal of its associated data."""

    principal: str
    tenant: str
    wrapped_key: bytes


@dataclass(frozen=True)
class Rotation:
    """Result of a rotation.

    Attributes:
        keys: wrapped keys in the database, one of them for fingerprints.
        rewrapped: keys wrapped under the new master key by this call.
        remaining: keys not opening under the new master key alone, read after the changes.
        broken: remaining keys not opening under any accepted master key.
    """

    keys: int
    rewrapped: int
    remaining: int
    broken: int


def rotate(
    engine: Engine,
    master: MasterKey,
    report: Callable[[int, int], None],
    page: int = KEYS_PER_PAGE,
) -> Rotation:
    """Wrap all data keys under the master key, then count the remaining keys.

    Args:
        engine: database of the feedback service.
        master: the new master key, which accepts the previous one.
        report: called after each page with the numbers of read and of all keys.
        page: keys in each transaction.

    Raises:
        LedgerUnavailableError: The database does not answer. The call may be repeated.
    """
    alone = master.without_accepted()
    with transaction(engine) as connection:
        total = connection.execute(select(func.count()).select_from(tables.data_keys)).scalar_one()
    read, rewrapped, last = 0, 0, ""
    while rows := _page(engine, last, page):
        changes = [
            (row.principal, row.wrapped_key, alone.wrap(key, row.tenant, row.principal))
            for row in rows
            if not _opens(alone, row) and (key := _opened(master, row)) is not None
        ]
        # A transaction of its own that begins with a write, which SQLite requires to wait for
        # other writers. Rows are locked in the common order.
        if changes:
            with transaction(engine) as connection:
                rewrapped += sum(_replace(connection, *change) for change in changes)
        read, last = read + len(rows), rows[-1].principal
        report(read, total)
    # SQLite: no wrapped key of the previous master key remains in the write-ahead log.
    scrub(engine)
    remaining = broken = 0
    read, last = 0, ""
    while rows := _page(engine, last, page):
        unopened = [row for row in rows if not _opens(alone, row)]
        remaining += len(unopened)
        broken += sum(not _opens(master, row) for row in unopened)
        read, last = read + len(rows), rows[-1].principal
    return Rotation(read, rewrapped, remaining, broken)


def _page(engine: Engine, after: str, page: int) -> list[_Row]:
    table = tables.data_keys.c
    query = (
        select(table.principal, table.tenant, table.wrapped_key)
        .where(table.principal > after)
        .order_by(table.principal)
        .limit(page)
    )
    with transaction(engine) as connection:
        return [
            _Row(row.principal, row.tenant, bytes(row.wrapped_key))
            for row in connection.execute(query)
        ]


def _opened(master: MasterKey, row: _Row) -> bytes | None:
    try:
        return master.unwrap(row.wrapped_key, row.tenant, row.principal)
    except MasterKeyError:
        return None


def _opens(master: MasterKey, row: _Row) -> bool:
    return _opened(master, row) is not None


def _replace(connection: Connection, principal: str, before: bytes, after: bytes) -> int:
    """Return 1, or 0 if the key was erased, or replaced after an erasure, since it was read."""
    table = tables.data_keys
    unchanged = (table.c.principal == principal) & (table.c.wrapped_key == before)
    return connection.execute(update(table).where(unchanged).values(wrapped_key=after)).rowcount
