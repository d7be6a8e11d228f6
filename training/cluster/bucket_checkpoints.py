"""Checkpoints of one run in a bucket: as many, and in the same format, as in a directory. Each
worker uploads the files that it wrote, the first one the manifest, last. So a whole checkpoint is
found whatever Ray has registered, and a part of one never is.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from minio.error import MinioException, S3Error
from urllib3.exceptions import HTTPError

from training.data.bucket import BACKOFF_SECONDS, TRIES, BucketLocation, connect
from training.errors import DetailedError
from training.manifest import (
    CHUNK_BYTES,
    MANIFEST,
    Manifest,
    ManifestError,
    hash_file,
    read_manifest,
    verify_manifest,
)
from training.optim.ranks import ALONE, Ranks
from training.stages.state import checkpoint_name, newest_first, outdated
from training.status import now

PARTS = "parts"  # beside the files: what each worker uploaded, by name and hash
PASSING_CODES = frozenset(
    {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "TooManyRequests"}
)

Answer = TypeVar("Answer")


class CheckpointStoreError(DetailedError, RuntimeError):
    """The bucket did not do what it was asked, several times; the text names the bucket and the
    object. Workers are started again.
    """

    reason = "UNREACHABLE"


class CheckpointBucket:
    """Objects of one bucket, to read and to write. Every call repeats what fails for a moment, and
    ends.
    """

    def __init__(self, place: BucketLocation, pause_seconds: float = BACKOFF_SECONDS) -> None:
        self._place, self._client, self._pause_seconds = (
            place,
            connect(place, tries=1),
            pause_seconds,
        )

    def put(self, key: str, content: Path | bytes) -> None:
        """A file, or a few bytes."""
        if isinstance(content, bytes):
            self._patiently(
                key,
                lambda: self._client.put_object(
                    self._place.bucket, key, io.BytesIO(content), len(content)
                ),
            )
        else:
            self._patiently(
                key, lambda: self._client.fput_object(self._place.bucket, key, str(content))
            )

    def fetch(self, key: str, path: Path) -> None:
        """Into a file."""
        self._patiently(key, lambda: self._read(key, path))

    def get(self, key: str) -> bytes:
        """What is small."""

        def read() -> bytes:
            with closing(self._client.get_object(self._place.bucket, key)) as response:
                return bytes(response.read())

        return self._patiently(key, read)

    def keys(self, prefix: str) -> list[str]:
        """All that begin so."""
        return self._patiently(
            prefix,
            lambda: [
                str(o.object_name)
                for o in self._client.list_objects(self._place.bucket, prefix, recursive=True)
            ],
        )

    def remove(self, key: str) -> None:
        """It may be gone already."""
        self._patiently(key, lambda: self._client.remove_object(self._place.bucket, key))

    def _read(self, key: str, path: Path) -> None:
        with (
            closing(self._client.get_object(self._place.bucket, key)) as response,
            path.open("wb") as opened,
        ):
            for chunk in response.stream(CHUNK_BYTES):
                opened.write(chunk)

    def _patiently(self, what: str, ask: Callable[[], Answer]) -> Answer:
        """Until it succeeds, is refused for good, or has failed so often."""
        for tried in range(1, TRIES + 1):
            try:
                return ask()
            except (MinioException, HTTPError) as error:
                refused = isinstance(error, S3Error) and error.code not in PASSING_CODES
                if refused or tried == TRIES:
                    said = error.code if isinstance(error, S3Error) else type(error).__name__
                    raise CheckpointStoreError(
                        f"bucket {self._place.bucket}: {what}: {said}",
                        field=what,
                        reason="DENIED" if refused else "",
                    ) from error
            time.sleep(self._pause_seconds * tried)
        raise AssertionError("unreachable")


class BucketCheckpoints:
    """See Checkpoints. scratch: a folder of this worker alone, on any disk; nothing in it is needed
    again.
    """

    def __init__(
        self, bucket: CheckpointBucket, prefix: str, scratch: Path, ranks: Ranks = ALONE
    ) -> None:
        self._bucket, self._prefix, self._scratch, self._ranks = bucket, prefix, scratch, ranks

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """What was left of this step by a run that was killed goes first, its manifest before all."""
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
        """The newest whole one, fetched; with `before`, see Checkpoints."""
        listed = self._listed()
        for name in newest_first(_whole(listed), before):
            try:
                return self._fetch(name, listed[name])
            except ManifestError:
                continue
        return None

    def _finish(self, name: str) -> None:
        """From here on it is whole; what is older than the newest two goes, and what was never
        whole.
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

    def _fetch(self, name: str, there: Sequence[str]) -> Path:
        """Raises: ManifestError: a file is missing or is not what was uploaded."""
        into = self._fresh(name)
        self._bucket.fetch(self._key(name, MANIFEST), into / MANIFEST)
        for file in read_manifest(into).files:
            if file in there:
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                self._bucket.fetch(self._key(name, file), into / file)
        verify_manifest(into)
        return into

    def _listed(self) -> dict[str, list[str]]:
        """The files of all checkpoints, whole or not."""
        found: dict[str, list[str]] = defaultdict(list)
        for key in self._bucket.keys(f"{self._prefix}/"):
            name, _, file = key.removeprefix(f"{self._prefix}/").partition("/")
            found[name].append(file)
        return found

    def _remove(self, name: str, files: Sequence[str]) -> None:
        """Without its manifest it is no checkpoint any more, wherever this is cut off."""
        for file in sorted(files, key=lambda file: file != MANIFEST):
            self._bucket.remove(self._key(name, file))

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self._scratch, ignore_errors=True)
        folder = self._scratch / name
        folder.mkdir(parents=True)
        return folder

    def _key(self, name: str, file: str) -> str:
        return f"{self._prefix}/{name}/{file}"


def _whole(listed: Mapping[str, Sequence[str]]) -> set[str]:
    """Names of those with a manifest."""
    return {name for name, files in listed.items() if MANIFEST in files}
