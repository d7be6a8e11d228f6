"""Account of one version: training data with their consent, evaluation, gate and canary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from training.artifacts.lineage import Ancestry, trace
from training.artifacts.manifest import MANIFEST, read_manifest
from training.artifacts.registry import Registry, RegistryError
from training.artifacts.scores import WEIGHTS, ScoreStore
from training.runs import RECORD, Runs

INDENT = 12


def describe_version(version: str, loop_directory: Path, registry: Registry) -> str:
    """Return the account of a version as text, one fact a line.

    Args:
        loop_directory: folder with runs, snapshots and evaluations.

    Raises:
        RegistryError: neither a run nor the registry knows the version.
    """
    runs = Runs(loop_directory)
    ancestries = {ancestry.version: ancestry for ancestry in trace(runs, registry)}
    if version not in ancestries:
        raise RegistryError(
            f"version: {version} is unknown; `thumbwheel models lineage` lists the versions",
            field="version",
            reason="UNKNOWN",
        )
    facts = [
        ("version", version),
        *_run(version, runs),
        *_data(ancestries[version], runs),
        *_verdicts(runs.directory(version)),
        *_scores(version, loop_directory),
    ]
    return "\n".join(f"{name:<{INDENT}}{text}" for name, text in facts)


def _run(version: str, runs: Runs) -> Iterator[tuple[str, str]]:
    if not (runs.directory(version) / RECORD).exists():
        yield "run", "none: the version was not trained by a run of the loop"
        return
    record, result = runs.record(version), runs.result(version)
    yield "run", f"recipe {record.recipe}, started {record.started}"
    if result is None:
        yield "result", "unfinished"
    else:
        reason = result.reason.removeprefix(f"{result.result}: ")
        yield "result", f"{result.result} at {result.ended}: {reason}"
    line, name = [], record.incumbent
    origins = {known.version: known.incumbent for known in runs.records()}
    while name and name not in line:
        line.append(name)
        name = origins.get(name, "")
    yield "ancestors", ", ".join(line) or "none"


def _data(ancestry: Ancestry, runs: Runs) -> Iterator[tuple[str, str]]:
    if not ancestry.snapshot:
        yield "snapshot", "none: the version learned from no feedback"
        return
    directory = runs.snapshots / ancestry.snapshot
    if not (directory / MANIFEST).exists():
        yield "snapshot", f"{ancestry.snapshot}, no longer stored"
        return
    report = read_manifest(directory).report
    yield (
        "snapshot",
        f"{ancestry.snapshot}: {report['thumbs_up']} thumbs up, {report['thumbs_down']} down, "
        f"{report['corrections']} corrections",
    )
    # Snapshots of earlier releases have neither votes nor reviewers.
    votes, rankings, written = (report.get(name, 0) for name in ("votes", "rankings", "written"))
    if votes or rankings or written:
        yield (
            "judgement",
            f"{votes} votes of the arena, {rankings} rankings and {written} written answers by "
            f"{report['raters']} reviewers, all with consent of user and reviewer",
        )
    sets = runs.directory(ancestry.version) / f"{ancestry.version}-sets"
    if (sets / MANIFEST).exists():
        by_source: Mapping[str, Mapping[str, int]] = read_manifest(sets).report.get("by_source", {})
        for name, counts in by_source.items():
            found = ", ".join(f"{source} {count}" for source, count in counts.items())
            yield "sources", f"{name.replace('_', ' ')}: {found or 'none'}"
    dropped: Mapping[str, int] = report.get("dropped", {})
    yield (
        "consent",
        f"{report['principals']} users who allowed training; left out: "
        f"{dropped.get('no_consent', 0)} events without consent, {dropped.get('erased', 0)} erased",
    )
    through = f", also through {', '.join(ancestry.through)}" if ancestry.through else ""
    yield "erasures", f"{ancestry.erasures} users erased since{through}"


def _verdicts(run_directory: Path) -> Iterator[tuple[str, str]]:
    gate, canary = (
        json.loads(path.read_text()) if path.exists() else None
        for path in (run_directory / "gate.json", run_directory / "canary.json")
    )
    if gate:
        # Files of earlier releases have no verdict.
        verdict = gate.get("verdict") or ("passed" if gate["passed"] else "refused")
        reason = gate["reason"]
        yield "gate", reason if reason.startswith(f"{verdict}:") else f"{verdict}: {reason}"
        for check in gate["checks"]:
            result = check.get("result") or ("pass" if check["passed"] else "fail")
            yield "", f"{check['name']}: {check['value']}, {result.lower().replace('_', ' ')}"
    if canary:
        yield "canary", f"{canary['verdict'].replace('_', ' ')}: {canary['reason']}"


def _scores(version: str, loop_directory: Path) -> Iterator[tuple[str, str]]:
    name = "scores"
    for score in ScoreStore(loop_directory).scores(version).values():
        part = "" if score.is_complete else ", a part of the task"
        part += "" if score.source == WEIGHTS else f", by an {score.source}"
        yield (
            name,
            f"{score.task}: {score.metric} {score.value:.4g} ± {score.standard_error:.2g} "
            f"(standard error) on {score.items} items{part}",
        )
        name = ""
