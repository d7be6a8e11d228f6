"""Backup of all objects as a tar stream, for stores without a tool of their own.

Keys contain the hash of the content, so restoring over existing objects changes nothing.
"""

import io
import tarfile
from typing import IO

from services.feedback.lake.object_store import ObjectMissingError, ObjectStore

MICROSECONDS = 1_000_000


def save(store: ObjectStore, to: IO[bytes]) -> int:
    """Write all objects to a tar stream and return their number.

    Objects deleted during the backup are skipped, since no reader needed them.

    Raises:
        ObjectStoreError: The store does not answer.
    """
    saved = 0
    with tarfile.open(fileobj=to, mode="w|") as tar:
        for found in sorted(store.list(""), key=lambda stored: stored.key):
            try:
                data = store.get(found.key)
            except ObjectMissingError:
                continue
            entry = tarfile.TarInfo(found.key)
            entry.size, entry.mtime = len(data), found.modified_us // MICROSECONDS
            tar.addfile(entry, io.BytesIO(data))
            saved += 1
    return saved


def load(store: ObjectStore, source: IO[bytes]) -> int:
    """Put all objects of a tar stream and return their number.

    Raises:
        ObjectStoreError: The store does not answer.
        tarfile.ReadError: The stream is truncated or is no tar stream.
    """
    loaded = 0
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for entry in tar:
            held = tar.extractfile(entry)
            if held is not None:
                store.put(entry.name, held.read())
                loaded += 1
    return loaded
