"""Metrics of the training loop, read from the loop's files at every scrape.

The loop is not a permanent process and cannot be scraped itself. Missing or invalid files produce
no series and no error.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

RESULTS = (
    "promoted",
    "rolled_back",
    "refused",
    "passed",
    "not_enough_feedback",
    "failed",
    "stopped",
)
# The value of a check is text and begins with a number, as in "0.812 ± 0.021 on 90 pairs".
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class LoopMetrics(Collector):
    """Collector for the folder of one loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Yield state, result, progress of the steps, and gate checks of the last run."""
        status = _read(self._directory / "status.json")
        try:
            metrics = [*_run(status), _steps(status)]
            run = str(status["run"])
        except (KeyError, TypeError, ValueError):
            return
        yield from metrics
        if _RUN.fullmatch(run):
            yield from _checks(_read(self._directory / "runs" / run / "gate.json"))


def _run(status: Mapping[str, Any]) -> Iterable[Metric]:
    ended = status["result"]
    running = GaugeMetricFamily(
        "thumbwheel_loop_running", "1 while a training run is in progress, according to its files."
    )
    running.add_metric([], float(ended is None))
    updated = GaugeMetricFamily(
        "thumbwheel_loop_updated_time_seconds", "Unix time of the run's last update."
    )
    updated.add_metric([], datetime.fromisoformat(status["updated"]).timestamp())
    result = GaugeMetricFamily(
        "thumbwheel_loop_turn_result",
        "1 for the result of the last run, 0 for the other results.",
        labels=["recipe", "result"],
    )
    for name in RESULTS:
        result.add_metric(
            [str(status["recipe"]), name], float(str(ended).replace(" ", "_") == name)
        )
    return running, updated, result


def _steps(status: Mapping[str, Any]) -> Metric:
    progress = GaugeMetricFamily(
        "thumbwheel_loop_step_progress_ratio",
        "Progress of a step of the last run, 0 to 1.",
        labels=["step"],
    )
    for step in status["steps"]:
        done = step["state"] == "done"
        progress.add_metric([str(step["name"])], 1.0 if done else float(step["progress"]))
    return progress


def _checks(gate: Mapping[str, Any]) -> Iterable[Metric]:
    value = GaugeMetricFamily(
        "thumbwheel_loop_check_value",
        "Values measured by the gate: accuracy of the reward model, win rate, "
        "KL in nats per answer, and others.",
        labels=["check"],
    )
    passed = GaugeMetricFamily(
        "thumbwheel_loop_check_passed",
        "1 for a passed check of the gate, 0 for a failed check.",
        labels=["check"],
    )
    try:
        for check in gate["checks"]:
            if number := _NUMBER.search(str(check["value"])):
                value.add_metric([str(check["name"])], float(number.group()))
            passed.add_metric([str(check["name"])], float(check["passed"]))
    except (KeyError, TypeError, ValueError):
        return ()
    return value, passed


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
