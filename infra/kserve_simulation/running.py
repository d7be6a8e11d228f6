"""Installation of KServe's resources and start of the simulated controller, from the host."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.cluster import lifecycle
from infra.definitions.installation import find_installed
from infra.definitions.known import make_known
from infra.deploy.inside import Inside

VERSION = "kserve-0_20"


def install_resources(inside: Inside) -> None:
    """Install KServe's resource definitions.

    Raises:
        ClusterError: a command failed.
        ServerError: the definitions are not in the cache.
    """
    make_known(inside, find_installed() / VERSION)


@contextmanager
def controller(inside: Inside) -> Iterator[None]:
    """Run the controller while the block executes.

    Raises:
        ClusterError: no cluster is running.
    """
    command = [sys.executable, "-m", "infra.kserve_simulation", "--state", str(inside.layout.state)]
    with (inside.layout.logs / "kserve-simulation.log").open("ab") as log:
        process = subprocess.Popen(
            inside.command(command),
            env=lifecycle.user_environment(inside.layout, inside.tools),
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
