"""Program of the preemption test: `python -m tests.training.cluster.leaving_run DIRECTORY`.

It trains SFT on two machines; one of them gets SIGTERM, like a pod that Kubernetes terminates.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from tests.training.cluster.moved_run import moved
from training.artifacts.manifest import Manifest
from training.cluster.group import ENVIRONMENT, OWN_ENVIRONMENT, Group, _start
from training.cluster.runner import StageRun, run_stages
from training.runtime.context import Progress, RunContext
from training.stages import sft
from training.stages.sft import SftConfig

MACHINE_LEAVES = 5  # preemption after this step; every second step has a checkpoint
WAIT_SECONDS = 120.0


def learn_until_told(config: SftConfig, context: RunContext) -> Manifest:
    def progress(step: Progress) -> None:
        context.progress(step)
        if step.step == MACHINE_LEAVES and context.ranks.rank == 0:
            end = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < end and not context.stop_requested():
                time.sleep(0.05)

    return sft.run(config, replace(context, progress=progress))


@dataclass(frozen=True)
class Driver:
    """Watcher that terminates a machine."""

    machine: "subprocess.Popen[bytes]"

    def begin(self, name: str) -> None: ...

    def move(self, name: str, progress: Progress) -> None:
        if progress.step == MACHINE_LEAVES:
            self.machine.send_signal(signal.SIGTERM)

    def end(self, name: str) -> None: ...


def main(root: Path) -> None:
    """Run in a separate folder, because `ray start` writes the address of its cluster there."""
    watched = {name: value for name, value in OWN_ENVIRONMENT.items() if "PREEMPTION" not in name}
    with tempfile.TemporaryDirectory(
        prefix="tw-", dir="/tmp"
    ) as folder:  # sockets need a short path
        os.environ.update({**ENVIRONMENT, **watched, "RAY_TMPDIR": folder})
        on_two_machines(root)


def on_two_machines(root: Path) -> None:
    """Start a head with one CPU and a machine with another CPU, like a KubeRay pod."""
    _start(1)
    address = ray.get_runtime_context().gcs_address
    start = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        f"--address={address}",
        "--num-cpus=1",
        "--block",
    ]
    with subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as machine:
        try:
            while ray.cluster_resources().get("CPU", 0) < 2:
                time.sleep(0.2)
            stage = StageRun("left", learn_until_told, moved(root, "left"))
            run_stages([stage], root / "runs", Group(2, fewest_workers=1), Driver(machine))
        finally:
            machine.terminate()
            ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
