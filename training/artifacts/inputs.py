"""Hashes of the inputs of a stage: data files, models, tokenizers, shards.

Contents count, not names or times, so a copy has the hash of its original. A file is read once per
process while its size and modification time are unchanged. Across processes this is not enough: a
file can be replaced by another one of the same size and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.artifacts.manifest import MANIFEST, ManifestError, hash_file, hash_of, read_manifest

# Files of a model or tokenizer from elsewhere. Notes and hidden files beside them do not count.
READ_ENDINGS = {".json", ".safetensors", ".jinja", ".txt", ".model"}
SHARD_ENDING = ".bin"  # token shards: terabytes, whose lengths are compared with the manifest
UNHASHED = "no files"  # a folder without a manifest and without files of a model

FileState = tuple[str, int, int]  # path, size in bytes, modification time in nanoseconds
_hashes: dict[FileState, str] = {}


def hash_input(path: Path) -> str | None:
    """Return the sha256 of a file, or of the files of a folder by name.

    A folder with a manifest has the hash of its manifest (`Manifest.sha256`) if its files are
    unchanged. Token shards are not read: their hashes are those of the manifest.

    Returns:
        None if the path or a file of its manifest is missing.
    """
    if path.is_file():
        return hash_once(path)
    if not path.is_dir():
        return None
    recorded: Mapping[str, str] = {}
    try:
        recorded = read_manifest(path).files
    except ManifestError:  # of another program, or none
        names = [file.name for file in path.iterdir() if _is_read(file)]
    else:
        names = list(recorded)
    files = {}
    for name in names:
        if not (path / name).is_file():
            return None
        is_shard = name.endswith(SHARD_ENDING) and name in recorded
        files[name] = recorded[name] if is_shard else hash_once(path / name)
    return hash_of(files) if files else UNHASHED


def known_hashes() -> dict[FileState, str]:
    """Return the hashes of this process, for another process of the same run."""
    return dict(_hashes)


def remember_hashes(hashes: Mapping[FileState, str]) -> None:
    """Use the hashes of another process of the same run."""
    _hashes.update(hashes)


def hash_once(path: Path) -> str:
    """Return the sha256 of a file; an unchanged file is read once by this process."""
    stat = path.stat()  # before reading, so that a change during it is found next time
    state = (str(path), stat.st_size, stat.st_mtime_ns)
    if state not in _hashes:
        _hashes[state] = hash_file(path)
    return _hashes[state]


def _is_read(file: Path) -> bool:
    return (
        file.suffix in READ_ENDINGS
        and not file.name.startswith(".")
        and file.name != MANIFEST
        and file.is_file()
    )
