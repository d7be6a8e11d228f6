"""Removal of documents from a corpus, and the models that learned from them.

A removal is recorded first and applied by the next build, also after an interruption. For each
build a table of hashes remembers the documents in its shards, so that the models that saw a
document can be named when its text no longer exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt

from durable_files.files import make_directory, publish
from durable_files.json_lines import append_lines, read_lines
from training.artifacts.manifest import MANIFEST, Manifest, ManifestError, read_manifest
from training.corpus.document import CorpusError, Origin, Stage, Verdict
from training.data.split_writer import ID_BYTES
from training.data.token_shards import KIND as SHARDS_KIND
from training.data.token_shards import SHARDS_HASH, shards_hash
from training.runs import now

REMOVALS, BUILDS = "removals.jsonl", "builds"
HASH_DIGITS = 16


class By(StrEnum):
    """Property by which documents are removed."""

    URL = "url"
    HOST = "host"
    LICENCE = "licence"


@dataclass(frozen=True)
class Removal:
    """A request to remove documents.

    Attributes:
        value: URL, host or licence, compared as a whole; a host stands for its subdomains, too.
    """

    by: By
    value: str
    time: str

    def concerns(self, origin: Origin) -> bool:
        """Return True if a document is removed."""
        if self.by is By.URL:
            return origin.url == self.value
        if self.by is By.LICENCE:
            return origin.licence == self.value
        return origin.host == self.value or origin.host.endswith(f".{self.value}")


def record(corpus: Path, by: By, value: str) -> Removal:
    """Append a removal to the corpus; the next build applies it.

    Raises:
        CorpusError: the value is empty, or no host name.
    """
    if not value:
        raise CorpusError(f"{by}: is empty", field=by, reason="EMPTY")
    if by is By.HOST and ("/" in value or value.count(":") == 1):
        raise CorpusError(
            f"host: {value} is no host name such as docs.example.org, without scheme and port",
            field=by,
            reason="MALFORMED",
        )
    removal = Removal(by, value.lower() if by is By.HOST else value, now())
    append_lines(corpus / REMOVALS, [asdict(removal)])
    return removal


def removals(corpus: Path) -> list[Removal]:
    """Return the recorded removals, oldest first."""
    rows = read_lines(corpus / REMOVALS)
    return [Removal(By(row["by"]), row["value"], row["time"]) for row in rows]


def removed_by(found: Sequence[Removal], origin: Origin) -> Verdict | None:
    """Return the verdict of the first removal that concerns a document."""
    for removal in found:
        if removal.concerns(origin):
            return Verdict(Stage.REMOVAL, removal.by, removal.time)
    return None


def remember_build(corpus: Path, shards: Path) -> str:
    """Store the identifiers in shards as hashes; return the hash of the shards."""
    name = shards_hash(shards)
    folder = corpus / BUILDS
    make_directory(folder)
    partial = folder / f"{name}.partial"
    with partial.open("wb") as opened:
        np.save(opened, np.sort(_hashes_in(shards)))
    publish(partial, folder / f"{name}.npy")
    return name


def builds_with(corpus: Path, identifiers: Sequence[str]) -> set[str]:
    """Return the hashes of the shards that contained one of the documents."""
    wanted = _hashes(identifiers)
    return {
        path.stem
        for path in (corpus / BUILDS).glob("*.npy")
        if np.isin(wanted, np.load(path, mmap_mode="r")).any()
    }


def artifacts_in(folders: Iterable[Path]) -> dict[Path, Manifest]:
    """Return the manifests of all artifacts in folders and below, by folder."""
    found: dict[Path, Manifest] = {}
    for folder in folders:
        for path in sorted(folder.resolve().rglob(MANIFEST)):
            with suppress(ManifestError):  # of another kind, or unfinished
                found[path.parent] = read_manifest(path.parent)
    return found


def shards_with(artifacts: Mapping[Path, Manifest], identifiers: Sequence[str]) -> set[str]:
    """Return the hashes of the token shards among artifacts that contain one of the documents.

    These are shards that `pretrain` has made from the documents of a corpus.
    """
    wanted = _hashes(identifiers)
    return {
        shards_hash(shards)
        for shards, manifest in artifacts.items()
        if manifest.kind == SHARDS_KIND and np.isin(wanted, _hashes_in(shards)).any()
    }


def models_of(builds: set[str], artifacts: Mapping[Path, Manifest]) -> list[tuple[str, Path]]:
    """Return version and folder of the models that were trained on shards, and of descendants.

    Args:
        builds: hashes of the shards.
        artifacts: manifests by folder; the same version may be in several folders.
    """
    found = {
        folder
        for folder, manifest in artifacts.items()
        if (manifest.data or {}).get(SHARDS_HASH) in builds
    }
    while True:
        versions = {artifacts[folder].version for folder in found}
        descendants = {
            folder
            for folder, manifest in artifacts.items()
            if folder not in found and versions.intersection(manifest.parents)
        }
        if not descendants:
            return sorted((artifacts[folder].version, folder) for folder in found)
        found |= descendants


def _hashes_in(shards: Path) -> npt.NDArray[np.uint64]:
    raw = b"".join(path.read_bytes() for path in sorted(shards.glob("*-ids.bin")))
    return _hashes(bytes(one).hex() for one in np.frombuffer(raw, dtype=f"V{ID_BYTES}"))


def _hashes(identifiers: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return 64 bits of a hash of each identifier, so that the table names no document."""
    return np.array(
        [int(hashlib.sha256(one.encode()).hexdigest()[:HASH_DIGITS], 16) for one in identifiers],
        dtype=np.uint64,
    )
