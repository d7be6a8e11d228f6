"""Installation of KServe's resources and start of the simulated controller, from the host."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.install.definitions.in_cluster import apply_definitions
from infra.install.definitions.installation import find_installed
from infra.machine.cluster import lifecycle
from infra.run.deploy.cluster_shell import ClusterShell

VERSION = "kserve-0_20"


def install_resources(shell: ClusterShell) -> None:
    """Install KServe's resource definitions.

    Raises:
        ClusterError: a command failed.
        ServerError: the definitions are not in the cache.
    """
    apply_definitions(shell, find_installed() / VERSION)


@contextmanager
def controller(shell: ClusterShell, initializer: str = "") -> Iterator[None]:
    """Run the controller while the block executes.

    Args:
        initializer: image of the init container for models in object stores.

    Raises:
        ClusterError: no cluster is running.
    """
    command = [sys.executable, "-m", "infra.simulate.kserve", "--state", str(shell.layout.state)]
    command += ["--initializer", initializer] if initializer else []
    with (shell.layout.logs / "kserve-simulation.log").open("ab") as log:
        process = subprocess.Popen(
            shell.command(command),
            env=lifecycle.user_environment(shell.layout, shell.tools),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
