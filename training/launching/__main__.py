"""Command of the chart's CronJob if runs are RayJobs: `python -m training.launching`.

Exit status: 0 the run ended (promoted, refused, held, too little feedback; see the loop's status),
1 the run failed. The run survives a killed launcher; the next launcher adopts its RayJob.
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

from training.launching.kubernetes import KubernetesApi, KubernetesTarget
from training.launching.launcher import Launch, Launcher, LaunchStatus

TERMINATED = 128 + signal.SIGTERM


class WallClock:
    """System clock for the launcher."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def main() -> int:
    """Launch a run and wait for its end."""
    options = parser().parse_args()
    # Process 1 of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    launch = Launch(
        json.loads(options.template.read_text()),
        options.job,
        options.job_uid,
        options.deadline_seconds,
    )
    api = KubernetesApi(KubernetesTarget(options.api or api_server(), options.account))
    status = LaunchStatus(options.loop, launch.name, options.recipe)
    return 0 if Launcher(launch, api, status, WallClock(), say).run() else 1


def api_server() -> str:
    """Return the URL of the API server from the environment of the pod."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.launching", description="Run the loop once as a RayJob."
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
        help="maximum time of the run from the creation of its RayJob",
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
    parser.add_argument("--api", help="URL of the API server (default: from the environment)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
