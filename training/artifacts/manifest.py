"""manifest.json: the description of an artifact, its origin, and the hash of every file.

The manifest is written last and atomically. A directory without a manifest is unfinished and must
not be loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from durable_files.files import DRAFT_PREFIX, sync_directory, sync_tree, write_file
from training.errors import DetailedError
from training.runs import now

MANIFEST = "manifest.json"
# Folder of a model, and the entry of its report: the adapter against the first model of a chain.
BASE_ADAPTER = "base_adapter"
FORMAT = 1
CHUNK_BYTES = 1 << 20


class ManifestError(DetailedError, ValueError):
    """A manifest is missing or malformed, or a file differs from its hash.

    The text names the field or the file.
    """

    reason = "INVALID_MANIFEST"


@dataclass(frozen=True)
class Manifest:
    """Description of an artifact.

    Attributes:
        data: {"snapshot": id, "sha256": hex}; for a tokenizer the hashes of its files by name; or
            None.
        report: figures of the stage.
        erased: {"number", "time"} of each erasure that concerned the artifact; its texts are
            deleted. The field is written only if it is not empty.
    """

    kind: str
    version: str
    created: str
    files: Mapping[str, str]
    parents: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    code_commit: str = ""
    seeds: Mapping[str, int] = field(default_factory=dict)
    data: Mapping[str, str] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    format: int = FORMAT
    erased: tuple[Mapping[str, Any], ...] = ()

    @property
    def erasure(self) -> str:
        """Description of the last erasure, or "" if there was none."""
        last = self.erased[-1] if self.erased else None
        return (
            f"{self.version} was erased at {last['time']} (erasure {last['number']})"
            if last
            else ""
        )

    @property
    def sha256(self) -> str:
        """Hash in hex over the hashes of the files; marks of erasures do not change it."""
        return hash_of(self.files)

    @property
    def fields(self) -> dict[str, Any]:
        """Fields as written to the file."""
        fields = dataclasses.asdict(self)
        return (
            fields
            if self.erased
            else {name: value for name, value in fields.items() if name != "erased"}
        )


def write_manifest(
    directory: Path,
    *,
    kind: str,
    version: str,
    parents: Sequence[str] = (),
    config: object = None,
    code_commit: str = "",
    seeds: Mapping[str, int] | None = None,
    data: Mapping[str, str] | None = None,
    report: Mapping[str, Any] | None = None,
    licence: str = "",
    sync: bool = True,
) -> Manifest:
    """Hash every file under `directory` and write the manifest.

    Args:
        config: a dataclass, a mapping or None; paths become text.
        sync: make the files durable before; False for files that no restart needs.
    """
    for draft in list(directory.rglob(f"{DRAFT_PREFIX}*")):  # of killed writers
        draft.unlink()
    paths = (path for path in directory.rglob("*") if path.is_file())
    names = sorted({path.relative_to(directory).as_posix() for path in paths} - {MANIFEST})
    manifest = Manifest(
        kind=kind,
        version=version,
        created=now(),
        files={name: hash_file(directory / name) for name in names},
        parents=tuple(parents),
        config=plain(config) or {},
        code_commit=code_commit,
        seeds=dict(seeds or {}),
        data=None if data is None else dict(data),
        report=plain(report) or {},
        licence=licence,
    )
    if sync:
        sync_tree(directory)
        sync_directory(directory.parent)
    save_manifest(directory, manifest)
    return manifest


def mark_erased(directory: Path, numbers: Iterable[int]) -> Manifest:
    """Add erasures to the manifest of a finished artifact, each once, with the current time."""
    manifest = read_manifest(directory)
    known = {erasure["number"] for erasure in manifest.erased}
    new = tuple({"number": number, "time": now()} for number in sorted({*numbers} - known))
    marked = dataclasses.replace(manifest, erased=(*manifest.erased, *new))
    save_manifest(directory, marked)
    return marked


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a finished artifact.

    Raises:
        ManifestError: the manifest is missing or malformed.
    """
    try:
        fields = json.loads((directory / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise ManifestError(
            f"{MANIFEST}: missing, so {directory.name} is not finished",
            field=MANIFEST,
            reason="MISSING",
        ) from error
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{MANIFEST}: not JSON at line {error.lineno}", field=MANIFEST, reason="MALFORMED"
        ) from error
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{MANIFEST}: not UTF-8 at byte {error.start}", field=MANIFEST, reason="NOT_UTF8"
        ) from error
    known = {f.name for f in dataclasses.fields(Manifest)}
    if not isinstance(fields, dict) or {*fields, "erased"} != known:
        raise ManifestError(
            f"{MANIFEST}: fields must be exactly {', '.join(sorted(known))}",
            field=MANIFEST,
            reason="MISMATCH",
            limit=", ".join(sorted(known)),
        )
    if fields["format"] != FORMAT:
        raise ManifestError(
            f"format: {fields['format']!r} is unknown, must be {FORMAT}",
            field="format",
            reason="UNSUPPORTED",
            limit=str(FORMAT),
        )
    return Manifest(
        **{**fields, "parents": tuple(fields["parents"]), "erased": tuple(fields.get("erased", ()))}
    )


def verify_manifest(directory: Path) -> Manifest:
    """Read the manifest and compare every file with its hash.

    Raises:
        ManifestError: as `read_manifest`; or the artifact was erased, or a file is missing or
            differs.
    """
    manifest = read_manifest(directory)
    if manifest.erased:
        raise ManifestError(manifest.erasure, field=manifest.version, reason="ERASED")
    for name, expected in manifest.files.items():
        path = directory / name
        if not path.is_file():
            raise ManifestError(f"files: {name} is missing", field=name, reason="MISSING")
        if hash_file(path) != expected:
            raise ManifestError(
                f"files: {name} differs from its sha256", field=name, reason="MISMATCH"
            )
    return manifest


def hash_files(directory: Path) -> str:
    """Return the sha256 in hex over the hashes of a model's files.

    Raises:
        ManifestError: the directory has no manifest.
    """
    return read_manifest(directory).sha256


def hash_of(files: Mapping[str, str]) -> str:
    """Return the sha256 in hex over the hashes of files by name."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def plain(value: object) -> Any:
    """Convert dataclasses, paths, tuples and mappings to JSON types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def save_manifest(directory: Path, manifest: Manifest) -> None:
    """Write the manifest atomically and durably, after the files of the artifact are durable."""
    content = json.dumps(manifest.fields, indent=2, sort_keys=True) + "\n"
    write_file(directory / MANIFEST, content.encode())


def finished_manifest(output_directory: Path) -> Manifest | None:
    """Return the manifest of a finished stage, or None if there is no complete output."""
    return read_manifest(output_directory) if (output_directory / MANIFEST).exists() else None
