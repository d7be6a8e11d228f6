"""All objects as one tar stream, out of a store and into another one: a backup for who has no tool
of the store's own.

An object's key holds the hash of its content, so putting a copy back over what is there changes
nothing.
"""

import io
import tarfile
from typing import IO

from services.feedback.lake.object_store import ObjectMissingError, ObjectStore

MICROSECONDS = 1_000_000


def save(store: ObjectStore, to: IO[bytes]) -> int:
    """Write them; how many. What goes away meanwhile, no reader needed any more. Raises:
    ObjectStoreError.
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
    """Put them all; how many. Raises: ObjectStoreError; tarfile.ReadError: the stream ends too
    early, or is none.
    """
    loaded = 0
    with tarfile.open(fileobj=source, mode="r|") as tar:
        for entry in tar:
            held = tar.extractfile(entry)
            if held is not None:
                store.put(entry.name, held.read())
                loaded += 1
    return loaded
