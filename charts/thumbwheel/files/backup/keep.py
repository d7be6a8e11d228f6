"""Keep dumps of databases in a bucket or a folder, and fetch them for a restore.

Usage: keep.py save --keep N | keep.py fetch NAME, each with --into FOLDER or --prefix PREFIX.

A backup is a folder named by its time in UTC, with one file for each dump and `manifest.json`.
The manifest is written last: without it a backup is incomplete. An encrypted file is the magic, a
salt of 32 bytes, and chunks of 1 MiB sealed by AES-256-GCM. The key of a file is derived by HKDF-
SHA256 from the key of the operator and the salt. A nonce is the number of the chunk (11 bytes)
and a byte: 1 for the last chunk, otherwise 0 (the STREAM construction,
https://eprint.iacr.org/2015/189). A file that was cut off, extended or reordered therefore does
not open.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from minio import Minio

from s3_credentials.chain import credentials_of

MAGIC, SALT_BYTES, CHUNK_BYTES, TAG_BYTES = b"thumbwheel backup 1\n", 32, 1 << 20, 16
MANIFEST = "manifest.json"
# At most 10,000 parts: 160 GB a file.
PART_BYTES = 16 << 20
TIME = "%Y%m%dT%H%M%SZ"
KEY_BYTES = 32


class BackupError(Exception):
    """A backup that cannot be written or read; the text names the file or the setting."""


class Place(Protocol):
    """A bucket or a folder of backups, with files named BACKUP/FILE."""

    def put(self, name: str, content: IO[bytes]) -> None: ...

    def open(self, name: str) -> IO[bytes]: ...

    def names(self) -> list[str]: ...

    def remove(self, name: str) -> None: ...


class Folder:
    """Backups in a folder of a claim."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, content: IO[bytes]) -> None:
        file = self._root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as to:
            shutil.copyfileobj(content, to, CHUNK_BYTES)
            to.flush()
            os.fsync(to.fileno())

    def open(self, name: str) -> IO[bytes]:
        return (self._root / name).open("rb")

    def names(self) -> list[str]:
        return [f"{file.parent.name}/{file.name}" for file in self._root.glob("*/*")]

    def remove(self, name: str) -> None:
        file = self._root / name
        file.unlink()
        if not any(file.parent.iterdir()):
            file.parent.rmdir()


class Bucket:
    """Backups under a prefix of an S3 bucket, with the environment TW_BACKUP_S3_*.

    Without TW_BACKUP_S3_ACCESS_KEY the credentials are those of the environment.
    """

    def __init__(self, prefix: str) -> None:
        given = {
            name: os.environ.get(f"TW_BACKUP_S3_{name.upper()}", "")
            for name in ("endpoint", "bucket", "region", "secure", "access_key", "secret_key")
        }
        self._bucket, self._prefix = given["bucket"], prefix.strip("/") + "/"
        self._client = Minio(
            given["endpoint"],
            credentials=credentials_of(given["access_key"], given["secret_key"]),
            secure=given["secure"] != "false",
            region=given["region"] or None,
        )

    def put(self, name: str, content: IO[bytes]) -> None:
        self._client.put_object(
            self._bucket,
            self._prefix + name,
            content,  # type: ignore[arg-type]
            length=-1,
            part_size=PART_BYTES,
            num_parallel_uploads=1,
        )

    def open(self, name: str) -> IO[bytes]:
        answer = self._client.get_object(self._bucket, self._prefix + name)
        # Otherwise the answer is a closed file at its end, instead of an empty one.
        answer.auto_close = False  # type: ignore[attr-defined]
        return io.BufferedReader(answer, CHUNK_BYTES)

    def names(self) -> list[str]:
        found = self._client.list_objects(self._bucket, self._prefix, recursive=True)
        return [str(item.object_name).removeprefix(self._prefix) for item in found]

    def remove(self, name: str) -> None:
        self._client.remove_object(self._bucket, self._prefix + name)


class Counted(io.RawIOBase):
    """Readable file over an iterator of bytes, with the hash and the length of all read bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""
        self.sha256, self.length = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._chunks, b"")
        given = self._rest[: len(into)]
        into[: len(given)] = given
        self._rest = self._rest[len(given) :]
        self.sha256.update(given)
        self.length += len(given)
        return len(given)


def chunks_of(file: IO[bytes], size: int = CHUNK_BYTES) -> Iterator[bytes]:
    """Yield chunks of exactly `size` bytes, the last one shorter."""
    while chunk := file.read(size):
        while len(chunk) < size and (more := file.read(size - len(chunk))):
            chunk += more
        yield chunk


def sealed(chunks: Iterator[bytes], key: bytes) -> Iterator[bytes]:
    """Yield the encrypted file of these chunks."""
    salt = os.urandom(SALT_BYTES)
    cipher = cipher_of(key, salt)
    yield MAGIC + salt
    number, held = 0, next(chunks, b"")
    for chunk in chunks:
        yield cipher.encrypt(nonce(number, last=False), held, None)
        number, held = number + 1, chunk
    yield cipher.encrypt(nonce(number, last=True), held, None)


def opened(file: IO[bytes], key: bytes, name: str) -> Iterator[bytes]:
    """Yield the decrypted chunks of a file.

    Raises:
        BackupError: the file is not encrypted, incomplete or changed, or has another key.
    """
    head = next(chunks_of(file, len(MAGIC) + SALT_BYTES), b"")
    if not head.startswith(MAGIC):
        raise BackupError(f"{name}: is not an encrypted file of a backup")
    cipher = cipher_of(key, head[len(MAGIC) :])
    chunks = chunks_of(file, CHUNK_BYTES + TAG_BYTES)
    number, held = 0, next(chunks, b"")
    try:
        for chunk in chunks:
            yield cipher.decrypt(nonce(number, last=False), held, None)
            number, held = number + 1, chunk
        yield cipher.decrypt(nonce(number, last=True), held, None)
    except InvalidTag as error:
        reason = "does not open under backup-key, or was changed or cut off"
        raise BackupError(f"{name}: {reason}") from error


def nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def cipher_of(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY_BYTES, salt, b"thumbwheel backup").derive(key))


def save(place: Place, dumps: Path, key: bytes | None, keep: int, now: datetime) -> str:
    """Write all dumps and the manifest, and remove old and incomplete backups.

    Args:
        key: key of 32 bytes. None: files are not encrypted.
        keep: number of complete backups that remain.

    Raises:
        BackupError: there are no dumps.
    """
    backup, files = now.strftime(TIME), {}
    for dump in sorted(dumps.glob("*.dump")):
        with dump.open("rb") as source:
            chunks = chunks_of(source)
            content = Counted(sealed(chunks, key) if key else chunks)
            name = f"{dump.name}.sealed" if key else dump.name
            place.put(f"{backup}/{name}", content)  # type: ignore[arg-type]
        files[name] = {"sha256": content.sha256.hexdigest(), "bytes": content.length}
    if not files:
        raise BackupError(f"{dumps}: there are no dumps")
    manifest = {"created": backup, "encrypted": key is not None, "files": files}
    place.put(f"{backup}/{MANIFEST}", io.BytesIO(json.dumps(manifest, indent=1).encode()))
    prune(place, keep)
    return backup


def prune(place: Place, keep: int) -> None:
    """Remove all but the newest complete backups, and incomplete ones. A manifest goes first."""
    names = place.names()
    kept = set(complete(names)[-keep:])
    for name in sorted(names, key=lambda name: not name.endswith(f"/{MANIFEST}")):
        backup = name.split("/")[0]
        if backup not in kept and is_time(backup):
            place.remove(name)


def complete(names: list[str]) -> list[str]:
    """Return the complete backups among these files, the oldest first.

    A file that is no part of a backup has another owner, for example a release with a prefix below.
    """
    found = (name.split("/") for name in names)
    return sorted(parts[0] for parts in found if is_time(parts[0]) and parts[1:] == [MANIFEST])


def is_time(text: str) -> bool:
    try:
        datetime.strptime(text, TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return True


def fetch(place: Place, backup: str, dumps: Path, key: bytes | None) -> str:
    """Write the dumps of a complete backup, after a comparison with its manifest.

    Args:
        backup: name of the backup, or `latest`.

    Raises:
        BackupError: the backup is missing or incomplete, or a file differs from the manifest.
    """
    found = complete(place.names())
    if not found or (backup != "latest" and backup not in found):
        raise BackupError(f"{backup}: no complete backup; complete are {found or 'none'}")
    backup = max(found) if backup == "latest" else backup
    with place.open(f"{backup}/{MANIFEST}") as file:
        manifest = json.load(file)
    if manifest["encrypted"] and key is None:
        raise BackupError(f"{backup}: is encrypted; backup.encryptionSecret has its backup-key")
    for name, expected in manifest["files"].items():
        with place.open(f"{backup}/{name}") as file:
            content = Counted(chunks_of(file))
            plain = (
                opened(io.BufferedReader(content), key or b"", name)
                if manifest["encrypted"]
                else chunks_of(io.BufferedReader(content))
            )
            with (dumps / name.removesuffix(".sealed")).open("wb") as to:
                to.writelines(plain)
        if (content.sha256.hexdigest(), content.length) != (expected["sha256"], expected["bytes"]):
            raise BackupError(f"{name}: differs from the manifest of {backup}")
    return backup


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep or fetch dumps of databases.")
    parser.add_argument("what", choices=["save", "fetch"])
    parser.add_argument("backup", nargs="?", default="latest")
    parser.add_argument("--dumps", type=Path, default=Path("/dumps"))
    parser.add_argument("--keep", type=int, default=1)
    parser.add_argument("--into", type=Path, help="folder of a claim")
    parser.add_argument("--prefix", default="", help="prefix in the bucket")
    options = parser.parse_intermixed_args()
    place: Place = Folder(options.into) if options.into else Bucket(options.prefix)
    try:
        key = key_of(os.environ.get("TW_BACKUP_KEY", ""))
        if options.what == "save":
            name = save(place, options.dumps, key, options.keep, datetime.now(UTC))
        else:
            name = fetch(place, options.backup, options.dumps, key)
    except BackupError as error:
        print(f"backup: {error}", file=sys.stderr)
        return 1
    print(f"{options.what}: {name}")
    return 0


def key_of(text: str) -> bytes | None:
    """Return the key of 64 hexadecimal digits, or None for no encryption."""
    if not text:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise BackupError("backup-key: must be 64 hexadecimal digits")
    return key


if __name__ == "__main__":
    sys.exit(main())
