"""Commands for the object store: `python -m services.feedback bucket|orphans`."""

import re
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain
from typing import Protocol

from services.feedback.events import Stream
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import delete_orphans, find_orphans

UNIT_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class BucketStore(Protocol):
    """Object store whose bucket may be missing."""

    def make_bucket(self) -> bool:
        """Create the bucket and return False if the bucket exists.

        Raises:
            ObjectStoreError: The store does not answer.
        """

    def check(self) -> None:
        """Check all operations on the bucket.

        Raises:
            ObjectStoreError: The store does not answer or rejects an operation.
        """


def make_bucket(store: BucketStore, bucket: str, write_line: Callable[[str], None] = print) -> None:
    """Create a missing bucket and check the access.

    Raises:
        ObjectStoreError: The store does not answer or rejects an operation.
    """
    created = store.make_bucket()
    store.check()
    write_line(f"bucket {bucket} {'created' if created else 'exists'}; access check succeeded")


def add_orphan_options(parser: ArgumentParser) -> None:
    """Add the options of the `orphans` command."""
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete dead orphans older than --older-than",
    )
    parser.add_argument(
        "--older-than",
        type=_duration_seconds,
        default="24h",
        metavar="24h",
        help="minimum age for deletion (default: 24h)",
    )


def collect_orphans(
    ledger: Ledger,
    store: ObjectStore,
    older_than_seconds: float,
    delete: bool,
    write_line: Callable[[str], None] = print,
) -> None:
    """List all orphans, one per line, and optionally delete old dead orphans.

    Raises:
        ObjectStoreError: The store does not answer.
        LedgerUnavailableError: The database does not answer.
    """
    before_us = time.time_ns() // 1_000 - int(older_than_seconds * 1_000_000) if delete else 0
    orphans = dead = deleted = 0
    for orphan in chain.from_iterable(find_orphans(ledger, store, stream) for stream in Stream):
        modified = datetime.fromtimestamp(orphan.modified_us / 1_000_000, UTC)
        # Kept at any age: the log may still commit the object, or another program has written it.
        state = "dead" if orphan.dead else "kept"
        write_line(f"{modified:%Y-%m-%dT%H:%M:%SZ} {state} {orphan.key}")
        orphans, dead = orphans + 1, dead + orphan.dead
        deleted += sum(1 for _ in delete_orphans(store, [orphan], before_us))
    write_line(f"orphans={orphans} dead={dead} deleted={deleted}")


def _duration_seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise ArgumentTypeError(f"{text!r} is not a duration such as 30m, 24h or 7d")
    return float(match[1]) * UNIT_SECONDS[match[2]]
