"""Which versions learned from what, and from whom nothing may be kept any more. A version learns
from its own snapshot, and by its first weights from every snapshot that its incumbents learned
from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.manifest import MANIFEST, read_manifest
from training.registry import Registry
from training.runs import Runs


@dataclass(frozen=True)
class Ancestry:
    """Where a version comes from. `stage` is what became of it last; `snapshot` is empty for one
    that learned from no feedback.

    erasures: of people whose words it or an incumbent before it learned from. through: those
        incumbents.
    unknown: snapshots of it or of them that are not kept, so that nobody can say whom they held.
    """

    version: str
    stage: str
    snapshot: str
    erasures: int
    through: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def text(self) -> str:
        """In one line."""
        learned = f"learned from {self.snapshot}" if self.snapshot else "learned from no feedback"
        gone = f", {self.erasures} erased since" if self.erasures else ""
        through = f", through {', '.join(self.through)}" if self.through else ""
        unknown = f", unknown: {', '.join(self.unknown)} not kept" if self.unknown else ""
        return f"{self.version:<16} {self.stage or '-':<12} {learned}{gone}{through}{unknown}"


@dataclass(frozen=True)
class _Origin:
    incumbent: str
    snapshot: str


def trace(runs: Runs, registry: Registry) -> list[Ancestry]:
    """All versions of the registry and of the runs, those of runs in the order in which they began."""
    origins = {
        m.version: _Origin("", (m.data or {}).get("snapshot", "")) for m in registry.manifests()
    }
    origins |= {
        record.version: _Origin(record.incumbent, record.snapshot) for record in runs.records()
    }
    erased = {
        origin.snapshot: _erasures_of(runs, origin.snapshot)
        for origin in origins.values()
        if origin.snapshot
    }
    stages = {event.version: event.stage.value for event in registry.history()}
    return [_ancestry(version, origins, erased, stages.get(version, "")) for version in origins]


def erased_versions(ancestries: list[Ancestry]) -> list[Mapping[str, object]]:
    """Those that learned from what is gone, as the page is told."""
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
    line = _line(version, origins)
    own = origins[version].snapshot
    snapshots = [origins[name].snapshot for name in line if origins[name].snapshot]
    return Ancestry(
        version=version,
        stage=stage,
        snapshot=own,
        erasures=len({number for snapshot in snapshots for number in erased[snapshot] or ()}),
        through=tuple(name for name in line[1:] if erased.get(origins[name].snapshot)),
        unknown=tuple(sorted({snapshot for snapshot in snapshots if erased[snapshot] is None})),
    )


def _line(version: str, origins: Mapping[str, _Origin]) -> list[str]:
    """The version and its incumbents, as far as they are known."""
    line: list[str] = []
    while version in origins and version not in line:
        line.append(version)
        version = origins[version].incumbent
    return line


def _erasures_of(runs: Runs, snapshot: str) -> set[int] | None:
    """Numbers of the erasures that concern a snapshot; None: it is not kept."""
    directory = runs.snapshots / snapshot
    if not (directory / MANIFEST).exists():
        return None
    return {int(erasure["number"]) for erasure in read_manifest(directory).erased}
