"""Split large sets of keys into chunks small enough for one SQL query."""

from collections.abc import Collection, Iterator
from typing import TypeVar

KEYS_PER_QUERY = 500
KeyT = TypeVar("KeyT", str, bytes, tuple[str, str], tuple[str, str, str])


def chunks(keys: Collection[KeyT]) -> Iterator[list[KeyT]]:
    """Yield the keys in sorted chunks.

    The common sort order prevents deadlocks: all callers lock rows in the same order.
    """
    ordered = sorted(keys)
    for at in range(0, len(ordered), KEYS_PER_QUERY):
        yield ordered[at : at + KEYS_PER_QUERY]
