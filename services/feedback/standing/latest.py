"""A table in which what was said last stands, by key: what was accepted earlier never takes the
place of what was later.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, delete, insert, tuple_

from services.feedback.portions import portions


class Said(Protocol):
    """What is said; its fields are columns."""

    def replaces(self, other: Any) -> bool:
        """Whether it stands instead of another one, or of None."""


KeyT = TypeVar("KeyT", tuple[str, str], tuple[str, str, str])
SaidT = TypeVar("SaidT", bound=Said)


def newer(said: Mapping[KeyT, SaidT], before: Mapping[KeyT, SaidT]) -> dict[KeyT, SaidT]:
    """Those that replace what was there before."""
    return {key: each for key, each in said.items() if each.replaces(before.get(key))}


def move(
    connection: Connection,
    table: Table,
    names: Sequence[str],
    changes: Iterable[tuple[KeyT, SaidT]],
    read: Callable[[Connection, Collection[KeyT]], Mapping[KeyT, SaidT]],
) -> None:
    """Let the last change of each key stand. `names`: the columns of the key; `read`: what stands
    now of some keys.
    """
    last: dict[KeyT, SaidT] = {}
    for key, said in changes:
        if said.replaces(last.get(key)):
            last[key] = said
    before = read(connection, last.keys())
    moved = newer(last, before)
    for some in portions(moved.keys() & before.keys()):
        connection.execute(delete(table).where(among(table, names, some)))
    if moved:
        rows = [dict(zip(names, key, strict=True)) | vars(said) for key, said in moved.items()]
        connection.execute(insert(table), rows)


def among(table: Table, names: Sequence[str], keys: Sequence[Any]) -> ColumnElement[bool]:
    """The rows of these keys."""
    return tuple_(*(table.c[name] for name in names)).in_(keys)
