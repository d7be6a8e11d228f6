"""report.html of one run: one file without scripts and without requests, built from what the run left on disk.

The answers in it are users' prompts and models' words: every one goes through the template's escaping.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.cluster.progress_log import read_progress
from training.curves import HEIGHT, WIDTH, Chart, chart
from training.evaluation.comparison import SAMPLES
from training.evaluation.trial import COURSE
from training.lineage import Descent
from training.manifest import MANIFEST, Manifest, read_manifest
from training.runs import RECORD, RunResult

REPORT = "report.html"
TEMPLATE = "report.html.jinja"
MAX_SAMPLES = 24
SHOWN = {
    "sft": ("loss", "held_out_loss"),
    "reward_model": ("loss", "accuracy", "held_out_accuracy"),
    "judge": ("loss", "accuracy", "held_out_accuracy"),
    "ppo": ("score", "reward", "kl", "response_tokens", "entropy", "eos_rate", "clip_fraction", "explained_variance"),
}


def write_report(run_directory: Path, snapshot_directory: Path, result: RunResult | None, descent: Descent) -> Path:
    """Build the page from the run's files; whatever the run has not reached is left out."""
    record = json.loads((run_directory / RECORD).read_text())
    version = record["version"]
    facts = {
        "record": record,
        "result": result,
        "descent": descent,
        "gate": _json(run_directory / "gate.json"),
        "canary": _json(run_directory / "canary.json"),
        "canary_charts": _canary_charts(run_directory / "canary" / COURSE),
        "samples": _lines(run_directory / f"{version}-evaluation" / SAMPLES)[:MAX_SAMPLES],
        "stages": {stage: _stage_charts(run_directory, stage) for stage in SHOWN},
        "snapshot": read_manifest(snapshot_directory),
        "sets": _manifest_report(run_directory / f"{version}-sets"),
        "artifacts": _artifacts(run_directory),
        "config": json.dumps(_json(run_directory / "config.json"), indent=1),
        "width": WIDTH,
        "height": HEIGHT,
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figure"] = figure
    path = run_directory / REPORT
    partial = path.with_suffix(".partial")
    partial.write_text(environment.get_template(TEMPLATE).render(facts))
    partial.replace(path)
    return path


def figure(value: object) -> str:
    """A number as people read it; a table in a table as "name value, name value"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {figure(item)}" for name, item in value.items())
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stage_charts(run_directory: Path, stage: str) -> list[Chart]:
    steps = read_progress(run_directory / "stages" / stage / "progress.jsonl")
    charts = [
        chart(name, {name: [(s.step, s.metrics[name]) for s in steps if name in s.metrics]}) for name in SHOWN[stage]
    ]
    return [drawn for drawn in charts if drawn is not None]


def _canary_charts(path: Path) -> list[Chart]:
    looks = _lines(path)
    rates = {
        arm: [(number, _rate(look[arm])) for number, look in enumerate(looks, start=1)]
        for arm in ("candidate", "incumbent")
    }
    evidence = {
        name: [(number, math.log10(max(look[name], 1e-6))) for number, look in enumerate(looks, start=1)]
        for name in ("e_better", "e_worse")
    }
    charts = [chart("share of thumbs up, by look", rates), chart("log10 of the evidence, by look", evidence)]
    return [drawn for drawn in charts if drawn is not None]


def _rate(thumbs: Mapping[str, int]) -> float:
    total = thumbs["up"] + thumbs["down"]
    return thumbs["up"] / total if total else math.nan


def _artifacts(run_directory: Path) -> list[Manifest]:
    """Everything that the run made."""
    return [read_manifest(path.parent) for path in sorted(run_directory.glob(f"*/{MANIFEST}"))]


def _manifest_report(directory: Path) -> Mapping[str, Any]:
    return read_manifest(directory).report if (directory / MANIFEST).exists() else {}


def _json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open() as opened:
        return [json.loads(line) for line in opened if line.endswith("\n")]
