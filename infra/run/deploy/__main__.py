"""Deploy images, chart and stores to the cluster on this machine.

Usage: `python -m infra.run.deploy`. `make deploy` runs this command.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from infra.machine.cluster import lifecycle
from infra.machine.cluster.__main__ import STATE
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import find_installed
from infra.machine.cluster.layout import Layout
from infra.machine.kuberay import installation as kuberay
from infra.machine.servers.errors import ServerError
from infra.run.deploy import release
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.port_forward import forward_port
from infra.run.deploy.release import load_images
from infra.run.deploy.storage import prepare_storage
from infra.run.deploy.training import RayMode, chart_values, install_operator, prepare_packages
from infra.run.embedded.model_server import add_quota_option
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal

IMAGES = ("services", "predictor", "stores")
HTTP_PORT, GRPC_PORT = 80, 50051


def main() -> int:
    """Run the command and return its exit status."""
    options = parse(sys.argv[1:])
    with as_command(ClusterError, ServerError, OSError):
        deploy(
            Layout(options.state.resolve()),
            options.port,
            options.grpc_port,
            options.training,
            release.WITHOUT_QUOTAS if options.without_quotas else {},
            whole=options.whole,
        )
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.run.deploy", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=STATE, help="the cluster's folder (default: %(default)s)"
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8080,
        help="HTTP port; 0 picks a free port (default: %(default)s)",
    )
    parser.add_argument(
        "--grpc-port", type=int, default=50051, help="gRPC port (default: %(default)s)"
    )
    parser.add_argument(
        "--training",
        type=RayMode,
        choices=list(RayMode),
        help="also run training: by Ray in RayJobs (kuberay) or in one pod (job), or without Ray",
    )
    parser.add_argument(
        "--whole",
        action="store_true",
        help="load the whole training image (six gigabytes) instead of mounting .venv",
    )
    add_quota_option(parser)
    return parser.parse_args(words)


def deploy(
    layout: Layout,
    port: int,
    grpc_port: int,
    training: RayMode | None,
    values: Mapping[str, object],
    *,
    whole: bool,
) -> None:
    """Run all steps. Each step is idempotent.

    Args:
        values: values of the chart in addition to those of this cluster and of training.

    Raises:
        ClusterError, ServerError: a step failed; the message contains its output.
        OSError: a port is in use.
    """
    say, started = partial(Terminal().say, SUPERVISOR), time.monotonic()
    tools = find_installed()
    if lifecycle.find(layout) is None:
        lifecycle.up(layout, tools, say)
    shell = ClusterShell(layout, tools)
    tags = load_images(
        shell,
        [*IMAGES, *(["training"] if training else [])],
        say,
        bare=[] if whole else ["training"],
    )
    say("namespace (restricted) and volumes")
    shell.run(
        "kubectl",
        "apply",
        "--server-side",
        "-f",
        "-",
        stdin=prepare_storage(layout, release.NAMESPACE),
    )
    if training and not whole:
        prepare_packages(shell, release.NAMESPACE)
    if training is RayMode.KUBERAY:
        install_operator(shell, kuberay.find_installed(), release.NAMESPACE, say)
    say("installing the chart, until every pod is ready")
    if training:
        values = release.overlaid(values, chart_values(training, whole=whole))
    release.install(shell, tags, values)
    say("helm test")
    release.test(shell)
    address, key = release.gateway_address(shell), release.owner_key(shell)
    shown = forward_port(shell, port, address, HTTP_PORT)
    grpc = forward_port(shell, grpc_port, address, GRPC_PORT)
    say(
        f"deployed to the cluster after {time.monotonic() - started:.0f} s; "
        f"gRPC at 127.0.0.1:{grpc}"
    )
    where = "" if layout.state == STATE else f" --state {layout.state}"
    say(
        f"the cluster keeps running; stop: .venv/bin/python -m infra.machine.cluster down{where}; "
        f"kubectl and helm: … exec{where} -- kubectl get pods -A"
    )
    say(f"http://127.0.0.1:{shown}/#key={key}")


if __name__ == "__main__":
    sys.exit(main())
