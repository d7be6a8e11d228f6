"""Many keys, so many at a time that one query can name them."""

from collections.abc import Collection, Iterator
from typing import TypeVar

KEYS_PER_QUERY = 500
KeyT = TypeVar("KeyT", str, bytes, tuple[str, str], tuple[str, str, str])


def chunks(keys: Collection[KeyT]) -> Iterator[list[KeyT]]:
    """In order: whoever locks what they name, locks it in the same order."""
    ordered = sorted(keys)
    for at in range(0, len(ordered), KEYS_PER_QUERY):
        yield ordered[at : at + KEYS_PER_QUERY]
