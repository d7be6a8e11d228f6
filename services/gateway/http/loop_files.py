"""Files of the training loop: status and reports for the page, and metrics read at every scrape.

The loop is not a permanent process: it is never called and cannot be scraped itself. Missing or
invalid files produce no series and no error.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.chassis.errors import NotFoundError, UnavailableError
from services.contracts.limits import field_error
from services.gateway.http.app import ProtectedRoute, Router
from services.gateway.http.version_files import read

# Without separators and leading dots, a name cannot leave runs/.
_RUN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# A report is a separate page and may only use its own styles.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


class LoopFiles:
    """Endpoints for the files of the loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("GET /api/loop", self.status),
            router.route("GET /api/loop/report/{run}", self.report),
        ]

    async def status(self, request: Request) -> Response:
        """Return the status, or an empty object before the first run."""
        try:
            text = await self._read(self._directory / "status.json", "no loop has run yet")
        except NotFoundError:
            return JSONResponse({})
        try:
            return JSONResponse(json.loads(text))
        except ValueError as error:
            raise UnavailableError(
                "the loop's status cannot be read", reason="LOOP_STATUS_BROKEN"
            ) from error

    async def report(self, request: Request) -> Response:
        run = request.path_params["run"]
        if not _RUN.fullmatch(run):
            raise field_error("run", "1 to 128 of letters, digits, '.', '_', '-'")
        text = await self._read(
            self._directory / "runs" / run / "report.html", "this run has no report"
        )
        # Browsers refuse a sandboxed page with another opener policy; `noopener` isolates it.
        headers = {
            "content-security-policy": REPORT_POLICY,
            "cross-origin-opener-policy": "unsafe-none",
        }
        return Response(text, media_type="text/html", headers=headers)

    async def _read(self, file: Path, missing: str) -> str:
        try:
            return await asyncio.to_thread(file.read_text)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(missing) from error


RESULTS = (
    "promoted",
    "rolled_back",
    "refused",
    "held",
    "passed",
    "not_enough_feedback",
    "failed",
    "stopped",
)
# The value of a check is text and begins with a number, as in "0.812 ± 0.021 on 90 pairs".
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


class LoopMetrics(Collector):
    """Collector for the folder of one loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Yield state, result, progress of the steps, and gate checks of the last run."""
        status = read(self._directory / "status.json")
        try:
            metrics = [*_run(status), _steps(status)]
            run = str(status["run"])
        except (KeyError, TypeError, ValueError):
            return
        yield from metrics
        if _RUN.fullmatch(run):
            yield from _checks(read(self._directory / "runs" / run / "gate.json"))


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
        "1 for a passed check of the gate, 0 for a check that failed or had too little data; "
        "none for a check that does not count.",
        labels=["check"],
    )
    try:
        for check in gate["checks"]:
            if number := _NUMBER.search(str(check["value"])):
                value.add_metric([str(check["name"])], float(number.group()))
            if check.get("result") != "uninformative":
                passed.add_metric([str(check["name"])], float(check["passed"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()
    return value, passed
