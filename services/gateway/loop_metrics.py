"""What training's loop came to, for Prometheus: read from the loop's own files whenever somebody
scrapes. The loop is a process that ends, so nobody could scrape it. Files that are not there, or
not what they should be, give no series and never an error.
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
# A check's value is written for people, its number first: "0.812 ± 0.021 on 90 pairs".
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class LoopMetrics(Collector):
    """Collects from one loop's directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """The last turn: whether it runs, what it came to, how far each step is, what its gate saw."""
        status = _read(self._directory / "status.json")
        try:
            turn = [*_turn(status), _steps(status)]
            run = str(status["run"])
        except (KeyError, TypeError, ValueError):
            return
        yield from turn
        if _RUN.fullmatch(run):
            yield from _checks(_read(self._directory / "runs" / run / "gate.json"))


def _turn(status: Mapping[str, Any]) -> Iterable[Metric]:
    ended = status["result"]
    running = GaugeMetricFamily(
        "thumbwheel_loop_running", "1 while a turn of training runs, as far as its files say."
    )
    running.add_metric([], float(ended is None))
    updated = GaugeMetricFamily(
        "thumbwheel_loop_updated_time_seconds", "Unix time at which the turn last wrote."
    )
    updated.add_metric([], datetime.fromisoformat(status["updated"]).timestamp())
    result = GaugeMetricFamily(
        "thumbwheel_loop_turn_result",
        "1 for what the last turn came to, 0 for the rest.",
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
        "How far a step of the last turn is, 0 to 1.",
        labels=["step"],
    )
    for step in status["steps"]:
        done = step["state"] == "done"
        progress.add_metric([str(step["name"])], 1.0 if done else float(step["progress"]))
    return progress


def _checks(gate: Mapping[str, Any]) -> Iterable[Metric]:
    value = GaugeMetricFamily(
        "thumbwheel_loop_check_value",
        "What the gate measured: reward model's accuracy, win rate, KL in nats an answer, and others.",
        labels=["check"],
    )
    passed = GaugeMetricFamily(
        "thumbwheel_loop_check_passed",
        "1 for a check of the gate that passed, 0 for one that closed it.",
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
