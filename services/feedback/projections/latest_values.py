"""Tables with the latest value per key, in the order of acceptance.

A value accepted earlier never replaces a value accepted later.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, tuple_

from services.feedback.store.database import chunks


class LatestValue(Protocol):
    """Value of a table; its fields are columns."""

    def replaces(self, other: Any) -> bool:
        """Return True if this value replaces another value or None."""


KeyT = TypeVar("KeyT", tuple[str, str], tuple[str, str, str])
ValueT = TypeVar("ValueT", bound=LatestValue)


def newer(value: Mapping[KeyT, ValueT], before: Mapping[KeyT, ValueT]) -> dict[KeyT, ValueT]:
    """Return the values that replace an earlier value."""
    return {key: value for key, value in value.items() if value.replaces(before.get(key))}


def upsert_latest(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    changes: Iterable[tuple[KeyT, ValueT]],
    read: Callable[[Connection, Collection[KeyT]], Mapping[KeyT, ValueT]],
) -> None:
    """Write the last change of each key.

    Args:
        connection: Open transaction.
        table: Table with the columns of key and value.
        names: Columns of the key.
        changes: Keys and values in order.
        read: Returns the stored values of some keys.
    """
    latest: dict[KeyT, ValueT] = {}
    for key, value in changes:
        if value.replaces(latest.get(key)):
            latest[key] = value
    before = read(connection, latest.keys())
    moved = newer(latest, before)
    for chunk in chunks(moved.keys() & before.keys()):
        connection.execute(delete(table).where(key_in(table, names, chunk)))
    if moved:
        rows = [dict(zip(names, key, strict=True)) | vars(value) for key, value in moved.items()]
        connection.execute(insert(table), rows)


def key_in(table: Table, names: Sequence[str], keys: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that selects the rows of some keys."""
    return tuple_(*(table.c[name] for name in names)).in_(keys)
