"""Ancestry of versions: the snapshots and versions that each version was trained from.

A version learns from its own snapshot, and through its initial weights from the snapshots of all
its incumbents. The ancestry shows which versions learned from erased feedback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.artifacts.manifest import MANIFEST, read_manifest
from training.artifacts.registry import Registry, VersionStage
from training.runs import Runs


@dataclass(frozen=True)
class Ancestry:
    """Origin of a version.

    Attributes:
        stage: last entry of the registry for this version.
        snapshot: "" for a version that learned from no feedback.
        erasures: number of erased users whose feedback this version or an ancestor learned from.
        through: ancestors that learned from erased feedback.
        unknown: snapshots of this version or its ancestors that are not stored any more, so their
            users are unknown.
        unfinished: the training of the version is active or was interrupted.
    """

    version: str
    stage: str
    snapshot: str
    erasures: int
    through: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    unfinished: bool = False

    def text(self) -> str:
        """Describe the ancestry in a single line."""
        learned = "unfinished run with" if self.unfinished else "learned from"
        learned += f" {self.snapshot or 'no feedback'}"
        gone = f", {self.erasures} erased since" if self.erasures else ""
        through = f", through {', '.join(self.through)}" if self.through else ""
        unknown = f", unknown: {', '.join(self.unknown)} not stored" if self.unknown else ""
        return f"{self.version:<16} {self.stage or '-':<12} {learned}{gone}{through}{unknown}"


@dataclass(frozen=True)
class _Origin:
    incumbent: str
    snapshot: str
    unfinished: bool = False


def trace(runs: Runs, registry: Registry) -> list[Ancestry]:
    """Return the ancestry of all known versions, versions of runs in order of their start."""
    stages = {event.version: event.stage.value for event in registry.history()}
    origins = {
        m.version: _Origin("", (m.data or {}).get("snapshot", "")) for m in registry.manifests()
    }
    for record in runs.records():
        # After the gate the version has learned; its run has a result only after the canary.
        unfinished = (
            stages.get(record.version, "") in ("", VersionStage.CANDIDATE)
            and runs.result(record.version) is None
        )
        origins[record.version] = _Origin(record.incumbent, record.snapshot, unfinished)
    # Numbers of the erasures that concern each snapshot; None if it is not stored.
    erased: dict[str, set[int] | None] = {}
    for snapshot in {origin.snapshot for origin in origins.values() if origin.snapshot}:
        directory = runs.snapshots / snapshot
        stored = (directory / MANIFEST).exists()
        erased[snapshot] = (
            {int(erasure["number"]) for erasure in read_manifest(directory).erased}
            if stored
            else None
        )
    return [_ancestry(version, origins, erased, stages.get(version, "")) for version in origins]


def erased_versions(ancestries: list[Ancestry]) -> list[Mapping[str, object]]:
    """Return the versions that learned from erased feedback, in the format of status.json."""
    return [
        {
            "version": d.version,
            "snapshot": d.snapshot,
            "erasures": d.erasures,
            "through": list(d.through),
        }
        for d in ancestries
        if d.erasures
    ]


def _ancestry(
    version: str, origins: Mapping[str, _Origin], erased: Mapping[str, set[int] | None], stage: str
) -> Ancestry:
    line: list[str] = []  # the version and its known incumbents
    name = version
    while name in origins and name not in line:
        line.append(name)
        name = origins[name].incumbent
    own = origins[version].snapshot
    snapshots = [origins[name].snapshot for name in line if origins[name].snapshot]
    return Ancestry(
        version=version,
        stage=stage,
        snapshot=own,
        erasures=len({number for snapshot in snapshots for number in erased[snapshot] or ()}),
        through=tuple(name for name in line[1:] if erased.get(origins[name].snapshot)),
        unknown=tuple(sorted({snapshot for snapshot in snapshots if erased[snapshot] is None})),
        unfinished=origins[version].unfinished,
    )
