"""Versions in an object store, at `s3://BUCKET/PREFIX/VERSION/…`, with the manifest last."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.artifacts.manifest import MANIFEST, Manifest, read_manifest, verify_manifest
from training.artifacts.registry import RegistryError
from training.cluster.bucket_checkpoints import CheckpointBucket
from training.data.feedback.bucket import bucket_location
from training.errors import ConfigError
from training.model_store.source import ETAG, PARTIAL, SHA256, SourceFile

SCHEME = "s3://"
URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,62})(?:/(.*))?")


@dataclass(frozen=True)
class StoreUrl:
    """A place in an object store."""

    bucket: str
    prefix: str  # without slashes at its ends

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.prefix}".rstrip("/")

    def key(self, name: str) -> str:
        """Return the key of an object below the prefix."""
        return f"{self.prefix}/{name}".lstrip("/")


def parse_url(text: str, option: str) -> StoreUrl:
    """Read `s3://BUCKET/PREFIX`.

    Raises:
        ConfigError: the text is no such URL; `field` is the option.
    """
    match = URL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{option}: {text!r} is not s3://BUCKET/PREFIX", field=option, reason="MALFORMED"
        )
    return StoreUrl(match[1], (match[2] or "").strip("/"))


def open_bucket(url: StoreUrl, environment: Mapping[str, str]) -> CheckpointBucket:
    """Open the bucket of the URL with endpoint and credentials of TW_TRAINING_S3_*.

    Raises:
        ConfigError: the variables are missing.
    """
    found = bucket_location(environment)
    if found is None:
        raise ConfigError(
            f"TW_TRAINING_S3_ENDPOINT: is missing; {url} needs TW_TRAINING_S3_ENDPOINT, "
            "_ACCESS_KEY and _SECRET_KEY, or _CREDENTIALS=chain",
            field="TW_TRAINING_S3_ENDPOINT",
            reason="MISSING",
        )
    return CheckpointBucket(replace(found, bucket=url.bucket))


def open_store(text: str, option: str, environment: Mapping[str, str]) -> ModelBucket:
    """Open the versions below `s3://BUCKET/PREFIX`.

    Raises:
        ConfigError: the URL is malformed, or the variables of the bucket are missing.
    """
    url = parse_url(text, option)
    return ModelBucket(open_bucket(url, environment), url)


class BucketSource:
    """A version or a model in an object store, as source of an import."""

    def __init__(self, bucket: CheckpointBucket, url: StoreUrl) -> None:
        self._bucket, self._url = bucket, url
        self.name = str(url)

    def files(self) -> Sequence[SourceFile]:
        """Return the objects directly below the prefix, with the hashes of a manifest."""
        start = self._url.key("")
        listed = self._bucket.listing(start)
        named = {key.removeprefix(start): found for key, found in listed.items()}
        hashes: Mapping[str, str] = {}
        if MANIFEST in named:
            hashes = json.loads(self._bucket.get(self._url.key(MANIFEST))).get("files", {})
        return [
            SourceFile(
                name,
                found.size,
                f"{SHA256}:{hashes[name]}" if name in hashes else f"{ETAG}:{found.etag}",
            )
            for name, found in sorted(named.items())
            if "/" not in name
        ]

    def fingerprint(self, file: SourceFile) -> str:
        """Return the hash in the manifest, or the ETag."""
        return file.fingerprint

    def fetch(self, file: SourceFile, into: Path) -> None:
        """Download an object. An interrupted one is downloaded again."""
        partial = into / f"{file.name}{PARTIAL}"
        self._bucket.fetch(self._url.key(file.name), partial)
        partial.replace(into / file.name)


class ModelBucket:
    """Versions below a URL."""

    def __init__(self, bucket: CheckpointBucket, url: StoreUrl) -> None:
        self._bucket, self._url = bucket, url

    def versions(self) -> list[str]:
        """Return the names of complete versions."""
        suffix = f"/{MANIFEST}"
        keys = self._bucket.keys(self._url.key(""))
        names = [key.removeprefix(self._url.key("")) for key in keys]
        return sorted(
            name.removesuffix(suffix)
            for name in names
            if name.count("/") == 1 and name.endswith(suffix)
        )

    def manifest(self, version: str, scratch: Path) -> Manifest | None:
        """Return the manifest of a version; None if the version is absent or incomplete."""
        key = self._url.key(f"{version}/{MANIFEST}")
        if key not in self._bucket.keys(key):
            return None
        scratch.mkdir(parents=True, exist_ok=True)
        self._bucket.fetch(key, scratch / MANIFEST)
        found = read_manifest(scratch)
        (scratch / MANIFEST).unlink()
        return found

    def upload(self, directory: Path, version: str) -> None:
        """Upload a finished version as it is. A second call with the same model has no effect.

        Raises:
            RegistryError: another model has this version.
            ManifestError: the directory is incomplete.
        """
        local = verify_manifest(directory)
        key = self._url.key(f"{version}/{MANIFEST}")
        if key in self._bucket.keys(key):
            if json.loads(self._bucket.get(key)).get("files") != dict(local.files):
                raise RegistryError(
                    f"version: {version} is another model already in {self._url}",
                    field="version",
                    reason="EXISTS",
                )
            return
        for name in (*local.files, MANIFEST):
            self.put(version, name, directory / name)

    def files(self, version: str) -> list[str]:
        """Return the files of a version, complete or not."""
        start = self._url.key(f"{version}/")
        return [key.removeprefix(start) for key in self._bucket.keys(start)]

    def put(self, version: str, name: str, content: Path | bytes) -> None:
        """Upload a file of a version."""
        self._bucket.put(self._url.key(f"{version}/{name}"), content)

    def get(self, version: str, name: str) -> bytes | None:
        """Return a small file of a version, or None."""
        key = self._url.key(f"{version}/{name}")
        return self._bucket.get(key) if key in self._bucket.keys(key) else None

    def remove(self, version: str, name: str = "") -> None:
        """Delete a file, or the whole version, its manifest first."""
        start = self._url.key(f"{version}/{name}")
        keys = [start] if name else self._bucket.keys(start)
        for key in sorted(keys, key=lambda key: not key.endswith(f"/{MANIFEST}")):
            self._bucket.remove(key)
