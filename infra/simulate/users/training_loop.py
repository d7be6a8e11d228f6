"""Training command of the demonstration and the results of a run on disk."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from infra.run.embedded.environment import loop_environment
from infra.run.embedded.layout import Layout
from infra.run.embedded.training_process import run_training_process
from infra.simulate.users.terminal import say
from training.errors import DetailedError


class LoopFailedError(DetailedError, RuntimeError):
    """The training command ended without a result; the message contains its exit status."""

    reason = "FAILED"


@dataclass(frozen=True)
class LoopRun:
    """Results of a completed run, read from its files."""

    version: str
    incumbent: str
    result: str
    reason: str
    snapshot: dict[str, Any]
    sets: dict[str, Any]
    health: dict[str, Any] | None
    gate: dict[str, Any] | None
    canary: dict[str, Any] | None
    step_seconds: dict[str, float]
    report: Path

    @property
    def promoted(self) -> bool:
        return self.result == "promoted"


async def run_training(
    layout: Layout, command: str, arguments: Sequence[str], program: Sequence[str]
) -> None:
    """Run a training command for this system and show its progress.

    Args:
        program: arguments of Python for the start of the training program.

    Raises:
        LoopFailedError: the exit status is not 0.
    """
    status = await run_training_process(
        [
            *(sys.executable, *program, command, "--state", str(layout.state), *arguments),
            *("--feedback", layout.target("feedback"), "--generator", layout.target("generator")),
        ],
        loop_environment(layout.state),
        layout.loop,
        say,
    )
    if status:
        raise LoopFailedError(
            f"python {' '.join(program)} {command} ended with status {status}", field=command
        )


def read_run(layout: Layout) -> LoopRun:
    """Read the run of status.json.

    Raises:
        LoopFailedError: the run has no result.
    """
    status = json.loads((layout.loop / "status.json").read_text())
    version = status["run"]
    run = layout.loop / "runs" / version
    result = _json(run / "result.json")
    if result is None:
        raise LoopFailedError(
            f"{status['result'] or 'unfinished'}: {status['reason']}",
            field=version,
            reason="MISSING",
        )
    record = json.loads((run / "run.json").read_text())
    return LoopRun(
        version=version,
        incumbent=record["incumbent"],
        result=result["result"],
        reason=result["reason"],
        snapshot=_report(layout.loop / "snapshots" / record["snapshot"]),
        sets=_report(run / f"{version}-sets"),
        health=_json(run / f"{version}-health" / "figures.json"),
        gate=_json(run / "gate.json"),
        canary=_json(run / "canary.json"),
        step_seconds={
            step["name"]: (
                datetime.fromisoformat(step["ended"]) - datetime.fromisoformat(step["started"])
            ).total_seconds()
            for step in status["steps"]
            if step["started"] and step["ended"]
        },
        report=run / "report.html",
    )


def _report(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "manifest.json").read_text())["report"]
    return found


def _json(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text()) if file.exists() else None
