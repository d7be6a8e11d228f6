"""Erasures in the files of training.

If a snapshot holds an erased user, all its texts are deleted, in the snapshot and in every run that
learned from it. Manifests and figures remain.

The texts of the snapshot are deleted last, because they identify its users. The number of the last
applied erasure is written after everything else. An interrupted call therefore starts again and
finds the rest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from durable_files.files import sync_directory, sync_tree, write_json
from training.artifacts.lineage import trace
from training.artifacts.manifest import MANIFEST, mark_erased
from training.artifacts.registry import Registry
from training.data.feedback.events import Erasure
from training.data.feedback.snapshot import JUDGEMENTS, RANKINGS
from training.figures import SAMPLES
from training.progress_log import EVENTS
from training.progress_log import SAMPLES as STAGE_SAMPLES
from training.reporting.run import REPORT, STAGES, write_report
from training.reporting.stage import REPORT as STAGE_REPORT
from training.reporting.stage import write_stage_page
from training.runs import Runs
from training.stage_record import FAILURE

APPLIED = "erasures.json"
# hashes of the principals in an erased snapshot, so that later erasures are counted too
PRINCIPALS = "principals.json"


class ErasureLedger(Protocol):
    """Source of erasures, in order of their numbers."""

    def erasures(self, after: int) -> Sequence[Erasure]: ...


@dataclass(frozen=True)
class ErasureResult:
    """Number of new erasures, and the snapshots that were erased."""

    erasures: int
    snapshots: tuple[str, ...] = ()

    def text(self) -> str:
        """Describe the result in a single line."""
        if not self.erasures:
            return "no new erasures"
        deleted = (
            "texts deleted from " + ", ".join(self.snapshots)
            if self.snapshots
            else "no snapshot is concerned"
        )
        return f"new erasures: {self.erasures}; {deleted}"


def apply_erasures(
    ledger: ErasureLedger, loop_directory: Path, registry: Registry
) -> ErasureResult:
    """Apply all erasures since the last call.

    The caller holds the lock of the loop, because a run reads the files that are deleted here.
    """
    runs = Runs(loop_directory)
    due = _due(ledger, loop_directory / APPLIED)
    if not due:
        return ErasureResult(0)
    concerned = []
    for directory in sorted(runs.snapshots.glob("*/")):
        if not (directory / MANIFEST).exists():
            shutil.rmtree(directory)  # incomplete, so no run refers to it
        elif _erase_snapshot(directory, due, runs):
            concerned.append(directory.name)
    # Write the reports of all finished runs that learned from erased feedback again.
    for ancestry in trace(runs, registry):
        pinned = runs.snapshots / ancestry.snapshot
        if (
            ancestry.erasures
            and (result := runs.result(ancestry.version))
            and (pinned / MANIFEST).exists()
        ):
            write_report(runs.directory(ancestry.version), pinned, result, ancestry)
    write_json(loop_directory / APPLIED, {"number": due[-1].number, "id": due[-1].id})
    return ErasureResult(len(due), tuple(concerned))


def _erase_snapshot(directory: Path, due: Sequence[Erasure], runs: Runs) -> bool:
    """Delete the texts of a snapshot if an erasure concerns it; return True if so."""
    texts, principals = directory / JUDGEMENTS, directory / PRINCIPALS
    held: set[str] = set()  # hashes of the principals in the snapshot
    if texts.exists():
        for file in (texts, directory / RANKINGS):
            held |= {_hashed(directory, principal) for principal in _people(file)}
    elif principals.exists():
        # A call that was interrupted may have deleted the judgements alone.
        (directory / RANKINGS).unlink(missing_ok=True)
        held = set(json.loads(principals.read_text())["hashed"])
    asked = [(erasure.number, _hashed(directory, erasure.principal)) for erasure in due]
    numbers = [number for number, hashed in asked if hashed in held]
    if not numbers:
        return False
    mark_erased(directory, numbers)  # first, so that no run resumes with it
    for record in runs.records():
        if record.snapshot == directory.name:
            _erase_run(runs.directory(record.version), record.version, numbers)
    write_json(principals, {"hashed": sorted(held - {hashed for _, hashed in asked})})
    for file in (texts, directory / RANKINGS):
        file.unlink(missing_ok=True)
    sync_directory(directory)
    return True


def _people(file: Path) -> set[str]:
    """Return the users and reviewers in a file of a snapshot; none if it does not exist."""
    if not file.exists():
        return set()
    with file.open() as opened:
        lines = [json.loads(line) for line in opened]
    return {line[name] for line in lines for name in ("principal", "rater") if line.get(name)}


def _erase_run(directory: Path, version: str, numbers: Sequence[int]) -> None:
    """Delete all texts that a run derived from the snapshot, finished or partial."""
    sets, evaluation = directory / f"{version}-sets", directory / f"{version}-evaluation"
    for part in (sets, evaluation):
        if (part / MANIFEST).exists():
            mark_erased(part, numbers)
    report = directory / REPORT
    for file in (
        *sets.glob("*.jsonl"),
        evaluation / SAMPLES,
        report,
        report.with_suffix(".partial"),
    ):
        file.unlink(missing_ok=True)
    # Stages record prompts and responses.
    for stage in (directory / STAGES).glob("*/"):
        for name in (STAGE_SAMPLES, STAGE_REPORT, FAILURE):
            (stage / name).unlink(missing_ok=True)
        shutil.rmtree(stage / EVENTS, ignore_errors=True)
        write_stage_page(stage)
    # Texts must not come back after power loss, because a later call does not look here again.
    sync_tree(directory)


def _hashed(directory: Path, principal: str) -> str:
    """Hash a principal with the name of the snapshot.

    The hash can only be recognised by a caller that knows both.
    """
    return hashlib.sha256(f"{directory.name}/{principal}".encode()).hexdigest()


def _due(ledger: ErasureLedger, applied: Path) -> Sequence[Erasure]:
    """Return the erasures since the last call.

    If the ledger was restored from a backup, its numbers start again, so all erasures are returned.
    """
    if applied.exists():
        last = json.loads(applied.read_text())
        since = ledger.erasures(last["number"] - 1)
        if since and since[0].id == last["id"]:
            return since[1:]
    return ledger.erasures(0)
