"""Object store interface with four methods, for directories, MinIO, SeaweedFS and S3.

No code relies on conditional writes: a key contains the hash of its content, so a second put of a
key changes nothing.
"""

import io
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from durable_files.files import DRAFT_PREFIX, sync_directory, write_file
from services.chassis.errors import DetailedError


class ObjectStoreError(DetailedError):
    """Store has rejected the operation, or the outcome is unknown."""

    reason = "OBJECT_STORE_FAILED"


class ObjectMissingError(ObjectStoreError):
    """Object does not exist; `field` is its key."""

    reason = "MISSING"


class ObjectRefusedError(ObjectStoreError):
    """Store rejects the operation because of a setting or permission; `field` is the setting."""

    reason = "REFUSED"


@dataclass(frozen=True)
class StoredObject:
    """Entry of a listing.

    `modified_us` is in microseconds since 1970 by the store's clock.
    """

    key: str
    modified_us: int


class ObjectStore(Protocol):
    """Object store; keys are relative POSIX paths."""

    def put(self, key: str, data: bytes) -> None:
        """Store an object durably and atomically.

        Raises:
            ObjectStoreError: The store does not answer, or the outcome is unknown.
        """

    def get(self, key: str) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissingError: No object has this key.
            ObjectStoreError: The store does not answer.
        """

    def delete(self, key: str) -> None:
        """Delete an object; a missing object is no error.

        Raises:
            ObjectStoreError: The store does not answer, or the outcome is unknown.
        """

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects with a key prefix, in no particular order.

        Raises:
            ObjectStoreError: The store does not answer.
        """


def check_key(key: str) -> None:
    """Check a key.

    Raises:
        ObjectStoreError: The key leaves the store, or a store may normalise the key to another one.
    """
    pure = PurePosixPath(key)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != key or key == ".":
        raise ObjectStoreError(
            "an object key must be a plain relative path", field="key", reason="MALFORMED"
        )


class Directory:
    """Object store in a folder of the local disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            write_file(path, data)
        except OSError as error:
            raise ObjectStoreError(f"could not put {key}", field=key) from error

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissingError(f"no object {key}", field=key) from error
        except OSError as error:
            raise ObjectStoreError(f"could not get {key}", field=key) from error

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ObjectStoreError(f"could not delete {key}", field=key) from error

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for path in self._root.rglob("*"):
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(DRAFT_PREFIX):
                try:
                    status = path.stat()
                except FileNotFoundError:  # deleted during the listing
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield StoredObject(key, status.st_mtime_ns // 1_000)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key


def save_objects(store: ObjectStore, to: IO[bytes]) -> int:
    """Write all objects to a tar stream and return their number.

    This backup serves stores without a tool of their own. Keys contain the hash of the content, so
    restoring over existing objects changes nothing.

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
            entry.size, entry.mtime = len(data), found.modified_us // 1_000_000
            tar.addfile(entry, io.BytesIO(data))
            saved += 1
    return saved


def load_objects(store: ObjectStore, source: IO[bytes]) -> int:
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
