"""manifest.json: written last by whoever made the model, so a directory without it is unfinished,
and is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.checkpoint import weight_files
from services.predictor.store.digests import DigestCache

MANIFEST_NAME = "manifest.json"
FORMAT = 1
NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked model directory. `digest` is the manifest's own: it identifies the content."""

    version: str
    directory: Path
    files: Mapping[str, str]
    digest: str


def check_manifest(directory: Path, version: str, digests: DigestCache) -> Manifest:
    """Check that the directory is a complete model and holds exactly what its manifest says.

    Raises:
        ModelRefusedError: the text names every file that is missing or differs, or the manifest's
            field at fault.
    """
    raw = _read(directory)
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ModelRefusedError(
            f"{MANIFEST_NAME} is not JSON", field=MANIFEST_NAME, reason="MALFORMED"
        ) from error
    files = _check_fields(content, version)
    missing = sorted(name for name in files if not (directory / name).is_file())
    if missing:
        raise ModelRefusedError(
            f"missing files: {', '.join(missing)}", field=", ".join(missing), reason="MISSING"
        )
    unlisted = sorted(name for name in {*NEEDED, *weight_files(directory)} if name not in files)
    if unlisted:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files does not list {', '.join(unlisted)}",
            field="files",
            reason="INCOMPLETE",
            limit=", ".join(unlisted),
        )
    changed = sorted(
        name for name, digest in files.items() if digests.sha256(directory / name) != digest
    )
    if changed:
        raise ModelRefusedError(
            f"files differ from {MANIFEST_NAME}: {', '.join(changed)}",
            field=", ".join(changed),
            reason="MISMATCH",
        )
    return Manifest(version, directory, files, hashlib.sha256(raw).hexdigest())


def manifest_digest(directory: Path) -> str:
    """Digest of the manifest alone, without looking at the files."""
    return hashlib.sha256(_read(directory)).hexdigest()


def _read(directory: Path) -> bytes:
    if not directory.is_dir():
        raise ModelRefusedError(
            "directory: there is no such directory", field="directory", reason="MISSING"
        )
    try:
        return (directory / MANIFEST_NAME).read_bytes()
    except FileNotFoundError as error:
        raise ModelRefusedError(
            f"{MANIFEST_NAME} is missing: the model is unfinished, or is not a model",
            field=MANIFEST_NAME,
            reason="MISSING",
        ) from error


def _check_fields(content: Any, version: str) -> dict[str, str]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: format must be {FORMAT}",
            field="format",
            reason="UNSUPPORTED",
            limit=str(FORMAT),
        )
    if content.get("kind") != "model":
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: kind must be model",
            field="kind",
            reason="UNSUPPORTED",
            limit="model",
        )
    if content.get("version") != version:
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: version is not the requested {version}",
            field="version",
            reason="MISMATCH",
            limit=version,
        )
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files must map names to SHA-256 digests",
            field="files",
            reason="MALFORMED",
        )
    # A trained adapter lies in a folder of its own beside the weights that it was merged into.
    if any(
        PurePosixPath(name).is_absolute() or {"..", ""} & set(name.split("/")) for name in files
    ):
        raise ModelRefusedError(
            f"{MANIFEST_NAME}: files must be paths inside the directory",
            field="files",
            reason="OUT_OF_RANGE",
        )
    return files
