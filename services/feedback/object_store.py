"""Where data objects lie: three methods, so that a directory, MinIO, SeaweedFS and S3 all serve.

Nothing relies on conditional writes: a key holds the hash of its content, so a second put of a key changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from services.feedback.durable import DRAFT_PREFIX, write_file


class ObjectStoreError(Exception):
    """The store did not do it, or it is not known whether it did."""


class ObjectMissingError(ObjectStoreError):
    """No object has this key."""


class ObjectStore(Protocol):
    """Keys are relative POSIX paths."""

    def put(self, key: str, data: bytes) -> None:
        """Durable and whole when it returns; a reader never sees a part. Raises: ObjectStoreError."""

    def get(self, key: str) -> bytes:
        """Raises: ObjectMissingError, ObjectStoreError."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that begin with the prefix, sorted. Raises: ObjectStoreError."""


class Directory:
    """An object store in a folder of the local disk."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            write_file(path, data)
        except OSError as error:
            raise ObjectStoreError(f"could not put {key}") from error

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissingError(f"no object {key}") from error
        except OSError as error:
            raise ObjectStoreError(f"could not get {key}") from error

    def list(self, prefix: str) -> Iterator[str]:
        paths = sorted(path for path in self._root.rglob("*") if path.is_file())
        for path in paths:
            key = path.relative_to(self._root).as_posix()
            if key.startswith(prefix) and not path.name.startswith(DRAFT_PREFIX):
                yield key

    def _path(self, key: str) -> Path:
        pure = PurePosixPath(key)
        if pure.is_absolute() or ".." in pure.parts or pure.name in ("", "."):
            raise ObjectStoreError("an object key must be a relative path without ..")
        return self._root / pure
