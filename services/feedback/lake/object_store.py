"""Where data objects lie: four methods, so that a directory, MinIO, SeaweedFS and S3 all serve.

Nothing relies on conditional writes: a key holds the hash of its content, so a second put of a key
changes nothing.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from services.chassis.errors import DetailedError
from services.feedback.durable import DRAFT_PREFIX, sync_directory, write_file


class ObjectStoreError(DetailedError):
    """The store did not do it, or it is not known whether it did."""

    reason = "OBJECT_STORE_FAILED"


class ObjectMissingError(ObjectStoreError):
    """No object has this key, which is `field`."""

    reason = "MISSING"


class ObjectRefusedError(ObjectStoreError):
    """The store will not do it until a setting or a right is another one; `field` is the setting."""

    reason = "REFUSED"


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells. `modified_us` is by the store's clock, in microseconds since 1970."""

    key: str
    modified_us: int


class ObjectStore(Protocol):
    """Keys are relative POSIX paths."""

    def put(self, key: str, data: bytes) -> None:
        """Durable and whole when it returns; a reader never sees a part. Raises: ObjectStoreError."""

    def get(self, key: str) -> bytes:
        """Raises: ObjectMissingError, ObjectStoreError."""

    def delete(self, key: str) -> None:
        """Gone when it returns, also if it was not there. Raises: ObjectStoreError."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose key begins with the prefix, in no particular order. Raises:
        ObjectStoreError.
        """


def check_key(key: str) -> None:
    """Raises ObjectStoreError for a key that would leave the store or that a store would read as
    another one.
    """
    pure = PurePosixPath(key)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != key or key == ".":
        raise ObjectStoreError(
            "an object key must be a plain relative path", field="key", reason="MALFORMED"
        )


class Directory:
    """An object store in a folder of the local disk."""

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
                except FileNotFoundError:  # deleted meanwhile
                    continue
                if stat.S_ISREG(status.st_mode):
                    yield StoredObject(key, status.st_mtime_ns // 1_000)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key
