"""Versions of the training loop, from its files: origin, verdict of the gate, canary and scores.

Every file may be missing or damaged; the other facts of a version are shown nevertheless.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.http.app import ProtectedRoute, Router

Json = Mapping[str, Any]
FileState = tuple[int, int, int]
"""Number of the file, time of its last change in nanoseconds, and its size."""
# The limit of RolloutService. Such a name has no separator and cannot leave its folder.
_VERSION = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_SNAPSHOT = re.compile(r"snapshot-[0-9a-f]{1,64}")
MAX_VERSIONS = 50
NEWEST_SCORED_VERSIONS = 10
SNAPSHOT_COUNTS = ("thumbs_up", "thumbs_down", "corrections", "principals")


class VersionFiles:
    """Endpoint for the versions of the loop.

    Args:
        directory: folder of the loop with `runs`, `snapshots` and `evaluations`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [router.route("GET /api/loop/versions", self.versions)]

    async def versions(self, request: Request) -> Response:
        """Return the newest MAX_VERSIONS versions, newest first."""
        found = await asyncio.to_thread(read_versions, self._directory)
        return JSONResponse({"versions": found[:MAX_VERSIONS]})


def read_versions(directory: Path) -> list[Json]:
    """Return the versions with a run, a canary or a score, newest first; blocking.

    Each has its run (version, recipe, incumbent, started), its result, the counts of its snapshot,
    the verdict of the gate, the end of the canary, and its scores. A version that an operator has
    put to the canary without a run has the result of the canary. Versions with scores only, such
    as a first version, come last.
    """
    runs = [
        (record, path.parent)
        for path in (directory / "runs").glob("*/run.json")
        if _VERSION.fullmatch(path.parent.name) and (record := read(path))
    ]
    found = [_version(directory, record, folder) for record, folder in runs]
    known = {folder.name for _, folder in runs}
    for path in (directory / "canaries").glob("*/end.json"):
        name = path.parent.name
        if _VERSION.fullmatch(name) and name not in known and (end := read(path)):
            found.append(_tried(directory, name, end))
            known.add(name)
    found.sort(key=lambda version: str(version["started"]), reverse=True)
    return found + [
        {"version": version, "scores": read_scores(directory, version)}
        for version in scored_versions(directory)
        if version not in known
    ]


def _version(directory: Path, record: Json, folder: Path) -> Json:
    return {
        "version": folder.name,
        "recipe": record.get("recipe", ""),
        "incumbent": record.get("incumbent", ""),
        "started": record.get("started", ""),
        "snapshot": _snapshot(directory, str(record.get("snapshot", ""))),
        "result": read(folder / "result.json") or None,
        "gate": read(folder / "gate.json") or None,
        "canary": read(folder / "canary.json") or None,
        "scores": read_scores(directory, folder.name),
    }


def _tried(directory: Path, version: str, end: Json) -> Json:
    promoted = end.get("verdict") == "promote"
    return {
        "version": version,
        "started": end.get("started", ""),
        "result": {
            "result": "promoted" if promoted else "rolled back",
            "reason": end.get("reason", ""),
            "ended": end.get("ended", ""),
        },
        "canary": end,
        "scores": read_scores(directory, version),
    }


def _snapshot(directory: Path, name: str) -> Json | None:
    """Return id, counts and erasures of a snapshot; `is_stored` is false after its deletion."""
    if not _SNAPSHOT.fullmatch(name):
        return None
    manifest = read(directory / "snapshots" / name / "manifest.json")
    report = manifest.get("report")
    counts = report if isinstance(report, dict) else {}
    return {
        "id": name,
        "is_stored": bool(manifest),
        "erasures": len(manifest.get("erased") or ()),
        **{key: counts[key] for key in SNAPSHOT_COUNTS if key in counts},
    }


def scored_versions(directory: Path) -> list[str]:
    """Return the versions with scores, that with the newest score first."""
    newest: dict[str, float] = {}
    for path in (directory / "evaluations").glob("*/*.json"):
        if _VERSION.fullmatch(version := path.parent.name):
            newest[version] = max(newest.get(version, 0.0), path.stat().st_mtime)
    return sorted(newest, key=lambda version: newest[version], reverse=True)


def read_scores(directory: Path, version: str) -> Sequence[Json]:
    """Return the readable scores of a version, sorted by task."""
    found = [read(path) for path in (directory / "evaluations" / version).glob("*.json")]
    return sorted((score for score in found if "task" in score), key=lambda s: str(s["task"]))


def read(file: Path) -> Json:
    """Return a JSON object from a file; an empty one if it is missing or damaged."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class EvaluationMetrics(Collector):
    """Collector of the scores of the newest NEWEST_SCORED_VERSIONS versions.

    A file is read again only after a change; every scrape looks at all of them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: Mapping[Path, tuple[FileState, Json]] = {}

    def collect(self) -> Iterable[Metric]:
        """Yield value, standard error and number of items of each score."""
        value = GaugeMetricFamily(
            "thumbwheel_evaluation_score",
            "Score of a version on a task, in the unit of its metric.",
            labels=["version", "task", "metric"],
        )
        error = GaugeMetricFamily(
            "thumbwheel_evaluation_score_error",
            "Standard error of a score over its items.",
            labels=["version", "task", "metric"],
        )
        items = GaugeMetricFamily(
            "thumbwheel_evaluation_items",
            "Number of items of a score.",
            labels=["version", "task", "metric"],
        )
        families = (value, error, items)
        known: dict[Path, tuple[FileState, Json]] = {}
        for version in scored_versions(self._directory)[:NEWEST_SCORED_VERSIONS]:
            for path in sorted((self._directory / "evaluations" / version).glob("*.json")):
                state = _state(path)
                before, score = self._known.get(path, (None, {}))
                if state != before:
                    score = read(path)
                known[path] = (state, score)
                try:
                    labels = [version, str(score["task"]), str(score["metric"])]
                    figures = [float(score[key]) for key in ("value", "standard_error", "items")]
                except (KeyError, TypeError, ValueError):
                    continue
                for family, figure in zip(families, figures, strict=True):
                    family.add_metric(labels, figure)
        self._known = known
        return [family for family in families if family.samples]


def _state(path: Path) -> FileState:
    """Return a value for the content; scores are replaced by renaming."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return found.st_ino, found.st_mtime_ns, found.st_size
