"""Model registry: one directory per version, and a history of all versions in registry.jsonl.

A version appears by an atomic rename of a complete directory. Events are appended and synced, and
never changed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from durable_files.files import make_directory, publish, sync_directory
from durable_files.json_lines import append_lines, read_lines
from training.artifacts.manifest import MANIFEST, Manifest, read_manifest, verify_manifest
from training.errors import DetailedError

HISTORY = "registry.jsonl"
REMOVED = ".removed"
VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")  # the limit of RolloutService


class VersionStage(StrEnum):
    """Stage of a version between training and promotion."""

    CANDIDATE = "candidate"
    GATED = "gated"
    REFUSED = "refused"
    HELD = "held"
    CANARY = "canary"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ERASED = "erased"  # its training data was erased or withdrawn, so it was not finished


class RegistryError(DetailedError, ValueError):
    """A version is unknown, malformed, or taken by another model; the text names it."""

    reason = "INVALID_VERSION"


@dataclass(frozen=True)
class Event:
    """One line of the history."""

    time: str
    version: str
    stage: VersionStage
    reason: str
    run: str


class Registry:
    """Versions under the folder `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def directory(self, version: str) -> Path:
        """Return the directory of a version.

        Raises:
            RegistryError: the version is unknown or unfinished.
        """
        directory = self._root / check_version(version)
        if not (directory / MANIFEST).is_file():
            raise RegistryError(
                f"version: {version} is not in the registry {self._root}",
                field="version",
                reason="UNKNOWN",
            )
        return directory

    def has(self, version: str) -> bool:
        """Return True if the version is in the registry."""
        return (self._root / check_version(version) / MANIFEST).is_file()

    def manifests(self) -> list[Manifest]:
        """Return the manifests of all versions, sorted by name."""
        paths = sorted(self._root.glob(f"*/{MANIFEST}"))
        return [read_manifest(path.parent) for path in paths if VERSION.fullmatch(path.parent.name)]

    def admit(self, source: Path, version: str) -> Path:
        """Copy a finished model into the registry after checking its hashes.

        A second call with the same model has no effect.

        Raises:
            RegistryError: another model has this version.
            ManifestError: the source is incomplete.
        """
        manifest = verify_manifest(source)
        target = self._root / check_version(version)
        if (target / MANIFEST).is_file():
            if verify_manifest(target).files != manifest.files:
                raise RegistryError(
                    f"version: {version} is another model already", field="version", reason="EXISTS"
                )
            return target
        make_directory(self._root)
        draft = self._root / f".{version}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        shutil.copytree(source, draft)
        publish(draft, target)
        return target

    def remove(self, version: str) -> None:
        """Take a version out of the registry; its history stays.

        The directory is renamed, so that no reader sees a part of it, and deleted by
        `delete_removed`.
        """
        target = self._root / check_version(version)
        if target.exists():
            target.rename(self._root / f".{version}{REMOVED}")
            sync_directory(self._root)

    def delete_removed(self) -> None:
        """Delete the directories of removed versions, also of an interrupted call."""
        for removed in self._root.glob(f".*{REMOVED}"):
            shutil.rmtree(removed)

    def note(self, version: str, stage: VersionStage, reason: str, run: str) -> None:
        """Append an event, unless the history contains it: resumed runs repeat their events."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        event = Event(time, version, stage, reason, run)
        is_known = any((e.version, e.stage, e.run) == (version, stage, run) for e in self.history())
        # A known event may be unsynced, if its writer was killed.
        append_lines(self._root / HISTORY, [] if is_known else [asdict(event)])

    def history(self) -> Sequence[Event]:
        """Return all events, oldest first."""
        rows = read_lines(self._root / HISTORY)
        return [Event(**{**row, "stage": VersionStage(row["stage"])}) for row in rows]

    def promoted(self) -> str | None:
        """Return the version that was promoted last and not rolled back since."""
        stages = {event.version: event.stage for event in self.history()}
        return next(
            (
                e.version
                for e in reversed(self.history())
                if e.stage is VersionStage.PROMOTED and stages[e.version] is VersionStage.PROMOTED
            ),
            None,
        )

    def next_version(self, name: str, taken: Sequence[str]) -> str:
        """Return `name`-n with the lowest n above all versions and runs.

        Number 0 is the base model of recipe `name`.
        """
        present = (
            [path.name for path in self._root.glob(f"{name}-*")] if self._root.exists() else []
        )
        known = [*present, *taken, *(event.version for event in self.history())]
        pattern = re.compile(rf"{re.escape(name)}-(\d+)")
        numbers = [int(match[1]) for text in known if (match := pattern.fullmatch(text))]
        return f"{name}-{max([0, *numbers]) + 1}"


def check_version(version: str) -> str:
    """Return the name of a version, if it is valid.

    Raises:
        RegistryError: it has other characters or another length.
    """
    if not VERSION.fullmatch(version):
        limit = "1 to 128 of a-z, 0-9, '.', '_', '-'"
        raise RegistryError(
            f"version: {version!r} is not {limit}", field="version", reason="MALFORMED", limit=limit
        )
    return version
