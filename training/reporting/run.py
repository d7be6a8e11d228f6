"""report.html of a run of the loop, built from the files of the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from training.artifacts.lineage import Ancestry
from training.artifacts.manifest import MANIFEST, read_manifest
from training.data.feedback.division import MIN_PRINCIPALS
from training.evaluation.canary_run import COURSE, approval_of
from training.figures import SAMPLES
from training.reporting.pages import Chart, chart, curves, write_page
from training.reporting.stage import read_stages
from training.runs import RECORD, RunResult

REPORT, STAGES = "report.html", "stages"
TEMPLATE = "run.html.jinja"
MAX_SAMPLES = 24


def write_report(
    run_directory: Path, snapshot_directory: Path, result: RunResult | None, ancestry: Ancestry
) -> Path:
    """Build the page from the files of the run; steps that were not reached are omitted."""
    record = json.loads((run_directory / RECORD).read_text())
    version = record["version"]
    sets = run_directory / f"{version}-sets"
    facts = {
        "record": record,
        "result": result,
        "ancestry": ancestry,
        "gate": _json(run_directory / "gate.json"),
        "canary": _json(run_directory / "canary.json"),
        "canary_charts": _canary_charts(run_directory / "canary" / COURSE),
        "samples": _lines(run_directory / f"{version}-evaluation" / SAMPLES)[:MAX_SAMPLES],
        "stages": {
            read.record.name: curves({read.record.name: read.course})
            for read in read_stages(run_directory / STAGES)
            if read.steps
        },
        "snapshot": read_manifest(snapshot_directory),
        "sets": read_manifest(sets).report if (sets / MANIFEST).exists() else {},
        "min_principals": MIN_PRINCIPALS,
        "artifacts": [
            read_manifest(path.parent) for path in sorted(run_directory.glob(f"*/{MANIFEST}"))
        ],
        "config": json.dumps(_json(run_directory / "config.json"), indent=1),
    }
    return write_page(run_directory / REPORT, TEMPLATE, facts)


def _canary_charts(path: Path) -> list[Chart]:
    looks = _lines(path)
    approvals = {
        arm: [
            (number, approval.share if approval.users else math.nan)
            for number, look in enumerate(looks, start=1)
            for approval in [approval_of(look[arm])]
        ]
        for arm in ("candidate", "incumbent")
    }
    evidence = {
        name: [
            (number, math.log10(max(look[name], 1e-6)))
            for number, look in enumerate(looks, start=1)
        ]
        for name in ("e_better", "e_worse")
    }
    charts = [
        chart("approval (mean share of thumbs up by user), by look", approvals),
        chart("log10 of the evidence, by look", evidence),
    ]
    return [drawn for drawn in charts if drawn is not None]


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as opened:
        return [json.loads(line) for line in opened if line.endswith("\n")]
