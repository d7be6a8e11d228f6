"""Erasures, applied to what training keeps: of a snapshot that holds somebody who was erased all
texts go, there and in every run that learned from it. Manifests and figures stay.

A snapshot's own texts go last, since they tell whom it holds, and the number of the last erasure is
written down after everything: whoever is cut off begins again and finds what is left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from training.cluster.event_files import EVENTS
from training.cluster.failure import FAILURE
from training.cluster.sample_log import SAMPLES as STAGE_SAMPLES
from training.data.events import Erasure
from training.data.snapshot import JUDGEMENTS
from training.evaluation.figures import SAMPLES
from training.lineage import trace
from training.manifest import MANIFEST, mark_erased
from training.registry import Registry
from training.reporting.run import REPORT, STAGES, write_report
from training.reporting.stage import REPORT as STAGE_REPORT
from training.reporting.stage import write_stage_page
from training.runs import Runs, write_json

APPLIED = "erasures.json"
PRINCIPALS = "principals.json"  # of an erased snapshot, hashed: later erasures are counted too


class ErasureLedger(Protocol):
    """Who was erased, in order."""

    def erasures(self, after: int) -> Sequence[Erasure]: ...


@dataclass(frozen=True)
class ErasureResult:
    """What one call came to: new erasures, and the snapshots that held what they concern."""

    erasures: int
    snapshots: tuple[str, ...] = ()

    def text(self) -> str:
        """In one line."""
        if not self.erasures:
            return "nobody was erased since the last time"
        kept = (
            "; the texts are gone of " + ", ".join(self.snapshots)
            if self.snapshots
            else "; nothing was kept of it here"
        )
        return f"erased since the last time: {self.erasures}{kept}"


def apply_erasures(
    ledger: ErasureLedger, loop_directory: Path, registry: Registry
) -> ErasureResult:
    """Apply what was erased since the last time. The caller holds the loop's lock: a run at work
    reads what goes here.
    """
    runs = Runs(loop_directory)
    due = _due(ledger, loop_directory / APPLIED)
    if not due:
        return ErasureResult(0)
    concerned = []
    for directory in sorted(runs.snapshots.glob("*/")):
        if not (directory / MANIFEST).exists():
            shutil.rmtree(directory)  # cut off while it was written, so nothing names it
        elif _erase_snapshot(directory, due, runs):
            concerned.append(directory.name)
    _write_reports(runs, registry)
    write_json(loop_directory / APPLIED, {"number": due[-1].number, "id": due[-1].id})
    return ErasureResult(len(due), tuple(concerned))


def _erase_snapshot(directory: Path, due: Sequence[Erasure], runs: Runs) -> bool:
    """Take the texts if one of these erasures concerns them."""
    held = _held(directory)
    asked = [(erasure.number, _hashed(directory, erasure.principal)) for erasure in due]
    numbers = [number for number, hashed in asked if hashed in held]
    if not numbers:
        return False
    mark_erased(directory, numbers)  # first: from here on nobody resumes with it
    for record in runs.records():
        if record.snapshot == directory.name:
            _erase_run(runs.directory(record.version), record.version, numbers)
    write_json(directory / PRINCIPALS, {"hashed": sorted(held - {hashed for _, hashed in asked})})
    (directory / JUDGEMENTS).unlink(missing_ok=True)
    return True


def _erase_run(directory: Path, version: str, numbers: Sequence[int]) -> None:
    """What a run made of a snapshot and holds texts, finished or half written."""
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
    for stage in (directory / STAGES).glob(
        "*/"
    ):  # they tell what they were asked, and what they said
        for name in (STAGE_SAMPLES, STAGE_REPORT, FAILURE):
            (stage / name).unlink(missing_ok=True)
        shutil.rmtree(stage / EVENTS, ignore_errors=True)
        write_stage_page(stage)


def _write_reports(runs: Runs, registry: Registry) -> None:
    """Anew for every run that ended and whose version learned from what is gone."""
    for ancestry in trace(runs, registry):
        pinned = runs.snapshots / ancestry.snapshot
        if (
            ancestry.erasures
            and (result := runs.result(ancestry.version))
            and (pinned / MANIFEST).exists()
        ):
            write_report(runs.directory(ancestry.version), pinned, result, ancestry)


def _held(directory: Path) -> set[str]:
    """Whom a snapshot holds, hashed."""
    texts, principals = directory / JUDGEMENTS, directory / PRINCIPALS
    if texts.exists():
        with texts.open() as opened:
            return {_hashed(directory, json.loads(line)["principal"]) for line in opened}
    return set(json.loads(principals.read_text())["hashed"]) if principals.exists() else set()


def _hashed(directory: Path, principal: str) -> str:
    """Says nothing to those who do not ask for this principal in this snapshot."""
    return hashlib.sha256(f"{directory.name}/{principal}".encode()).hexdigest()


def _due(ledger: ErasureLedger, applied: Path) -> Sequence[Erasure]:
    """What came since the last time; everything, if the ledger is another one now: brought back
    from a backup, it numbers anew.
    """
    if applied.exists():
        last = json.loads(applied.read_text())
        since = ledger.erasures(last["number"] - 1)
        if since and since[0].id == last["id"]:
            return since[1:]
    return ledger.erasures(0)
