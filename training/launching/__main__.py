"""`python -m training.launching`: what the chart's CronJob runs where turns are RayJobs.

Exit status: 0 the turn ended (promoted, refused, too little feedback: the loop's status says
which), 1 it failed. A launcher that is killed is no failure of the turn: the next one adopts its
RayJob.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from training.launching.kubernetes import KubernetesApi, Place
from training.launching.launcher import Launcher, Turn
from training.launching.notice import Notice

TERMINATED = 128 + signal.SIGTERM


class WallClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main() -> int:
    """Run one turn."""
    options = _parser().parse_args()
    # The first process of a container would not even notice it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    turn = Turn(
        json.loads(options.template.read_text()),
        options.job,
        options.job_uid,
        options.deadline_seconds,
    )
    api = KubernetesApi(Place(options.api or api_server(), options.account))
    notice = Notice(options.loop, turn.name, options.recipe)
    return 0 if Launcher(turn, api, notice, WallClock(), say).run() else 1


def api_server() -> str:
    """As every pod is told."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.launching", description="One turn of the loop as a RayJob."
    )
    parser.add_argument("--template", type=Path, required=True, help="the RayJob, as JSON")
    parser.add_argument(
        "--job", required=True, help="name of the Kubernetes Job that this pod belongs to"
    )
    parser.add_argument("--job-uid", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument(
        "--deadline-seconds",
        type=float,
        required=True,
        help="of the turn, from the making of its RayJob",
    )
    parser.add_argument(
        "--loop",
        type=Path,
        default=Path("/loop"),
        help="the loop's directory (default: %(default)s)",
    )
    parser.add_argument(
        "--account",
        type=Path,
        default=Path("/account"),
        help="folder of token, ca.crt and namespace (default: %(default)s)",
    )
    parser.add_argument("--api", help="the API server (default: the one that the pod is told of)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
