"""Checkpoints of a run in a bucket, in the same number and format as in a directory.

Each worker uploads its own files; the first worker uploads the manifest last. A complete checkpoint
is therefore found independently of Ray's records, and an incomplete one never is.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from s3_credentials.chain import CredentialsError
from training.artifacts.manifest import (
    CHUNK_BYTES,
    MANIFEST,
    Manifest,
    ManifestError,
    hash_file,
    read_manifest,
    verify_manifest,
)
from training.data.feedback.bucket import BACKOFF_SECONDS, TRIES, BucketLocation, connect
from training.errors import UnavailableError
from training.runs import now
from training.runtime.ranks import ALONE, Ranks
from training.runtime.training_state import checkpoint_name, newest_first, outdated

PARTS = "parts"  # next to the files: uploads of each worker, by name and hash
PASSING_CODES = frozenset(
    {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "TooManyRequests"}
)

Answer = TypeVar("Answer")


class CheckpointStoreError(UnavailableError):
    """The bucket failed repeatedly; the text names bucket and object.

    Workers are restarted.
    """

    reason = "UNREACHABLE"


@dataclass(frozen=True)
class StoredObject:
    """Size in bytes and ETag of an object, as listed."""

    size: int
    etag: str


class CheckpointBucket:
    """Objects of a bucket.

    Calls retry temporary failures a limited number of times.
    """

    def __init__(self, place: BucketLocation, pause_seconds: float = BACKOFF_SECONDS) -> None:
        self._place, self._client, self._pause_seconds = (
            place,
            connect(place, tries=1),
            pause_seconds,
        )

    def put(self, key: str, content: Path | bytes) -> None:
        """Upload a file or bytes."""
        if isinstance(content, bytes):
            self._with_retries(
                key,
                lambda: self._client.put_object(
                    self._place.bucket, key, io.BytesIO(content), len(content)
                ),
            )
        else:
            self._with_retries(
                key, lambda: self._client.fput_object(self._place.bucket, key, str(content))
            )

    def fetch(self, key: str, path: Path) -> None:
        """Download an object to a file."""

        def read() -> None:
            with (
                closing(self._client.get_object(self._place.bucket, key)) as response,
                path.open("wb") as opened,
            ):
                for chunk in response.stream(CHUNK_BYTES):
                    opened.write(chunk)

        self._with_retries(key, read)

    def get(self, key: str) -> bytes:
        """Return the content of a small object."""

        def read() -> bytes:
            with closing(self._client.get_object(self._place.bucket, key)) as response:
                return bytes(response.read())

        return self._with_retries(key, read)

    def keys(self, prefix: str) -> list[str]:
        """Return all keys with this prefix."""
        return list(self.listing(prefix))

    def listing(self, prefix: str) -> dict[str, StoredObject]:
        """Return all objects with this prefix by key."""
        return self._with_retries(
            prefix,
            lambda: {
                str(o.object_name): StoredObject(o.size or 0, o.etag or "")
                for o in self._client.list_objects(self._place.bucket, prefix, recursive=True)
            },
        )

    def remove(self, key: str) -> None:
        """Delete an object, if it exists."""
        self._with_retries(key, lambda: self._client.remove_object(self._place.bucket, key))

    def _with_retries(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """Call until success, a permanent error, or the maximum number of tries."""
        for tried in range(1, TRIES + 1):
            try:
                return ask()
            except (MinioException, HTTPError) as error:
                refused, code = _cause(error)
                if refused or tried == TRIES:
                    raise CheckpointStoreError(
                        f"bucket {self._place.bucket}: {what}: {code}",
                        field=what,
                        reason="DENIED" if refused else "",
                    ) from error
            time.sleep(self._pause_seconds * tried)
        raise AssertionError("unreachable")


class BucketCheckpoints:
    """Implements `Checkpoints` in a bucket.

    Args:
        scratch: temporary folder of this worker only, on any disk.
    """

    def __init__(
        self, bucket: CheckpointBucket, prefix: str, scratch: Path, ranks: Ranks = ALONE
    ) -> None:
        self._bucket, self._prefix, self._scratch, self._ranks = bucket, prefix, scratch, ranks

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Implement `Checkpoints.save`.

        Remains of an interrupted upload of this step are removed first, beginning with the
        manifest.
        """
        name, first = checkpoint_name(step, on_notice), self._ranks.rank == 0
        if first:
            self._remove(name, self._listed().get(name, []))
        local = self._fresh("saved")
        write(local)
        self._ranks.wait()
        files = {
            path.relative_to(local).as_posix(): path for path in local.rglob("*") if path.is_file()
        }
        for file, path in files.items():
            self._bucket.put(self._key(name, file), path)
        hashes = {file: hash_file(path) for file, path in files.items()}
        self._bucket.put(
            self._key(name, f"{PARTS}/{self._ranks.rank:05d}.json"), json.dumps(hashes).encode()
        )
        self._ranks.wait()
        if first:
            self._finish(name)
        self._ranks.wait()
        shutil.rmtree(local)

    def latest(self, before: int | None = None) -> Path | None:
        """Download the newest complete checkpoint; for `before` see `Checkpoints`."""
        listed = self._listed()
        for name in newest_first(_whole(listed), before):
            try:
                into = self._fresh(name)
                self._bucket.fetch(self._key(name, MANIFEST), into / MANIFEST)
                for file in read_manifest(into).files:
                    if file in listed[name]:
                        (into / file).parent.mkdir(parents=True, exist_ok=True)
                        self._bucket.fetch(self._key(name, file), into / file)
                verify_manifest(into)
                return into
            except ManifestError:  # a file is missing or differs from its hash
                continue
        return None

    def _finish(self, name: str) -> None:
        """Write the manifest, which completes the checkpoint.

        Incomplete checkpoints and all but the newest two are removed.
        """
        files: dict[str, str] = {}
        for rank in range(self._ranks.world_size):
            files |= json.loads(self._bucket.get(self._key(name, f"{PARTS}/{rank:05d}.json")))
        manifest = Manifest("training_state", name, now(), files)
        self._bucket.put(
            self._key(name, MANIFEST),
            json.dumps(manifest.fields, indent=2, sort_keys=True).encode(),
        )
        listed = self._listed()
        whole = _whole(listed)
        for old in listed.keys() - (whole - outdated(name, whole)):
            self._remove(old, listed[old])

    def _listed(self) -> dict[str, list[str]]:
        """Return the files of all checkpoints, complete or not."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self._bucket.keys(f"{self._prefix}/"):
            name, _, file = key.removeprefix(f"{self._prefix}/").partition("/")
            found[name].append(file)
        return found

    def _remove(self, name: str, files: Sequence[str]) -> None:
        """Remove a checkpoint, its manifest first, so that an interruption leaves no valid one."""
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._bucket.remove(self._key(name, file))

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self._scratch, ignore_errors=True)
        folder = self._scratch / name
        folder.mkdir(parents=True)
        return folder

    def _key(self, name: str, file: str) -> str:
        return f"{self._prefix}/{name}/{file}"


def _cause(error: Exception) -> tuple[bool, str]:
    """Return whether a repetition is pointless, and the error without texts of servers."""
    if isinstance(error, CredentialsError):
        return error.refused, str(error)
    if isinstance(error, S3Error):
        return error.code not in PASSING_CODES, str(error.code)
    return False, type(error).__name__


def _whole(listed: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the names of checkpoints with a manifest."""
    return {name for name, files in listed.items() if MANIFEST in files}
