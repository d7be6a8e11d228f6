"""Build the KubeRay operator into the cache: `python -m infra.machine.kuberay`.

`make deploy TRAINING=kuberay` and tests run this command.
"""

from functools import partial

from infra.machine.cluster.errors import ClusterError
from infra.machine.kuberay.installation import install
from infra.machine.servers.errors import ServerError
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal


def main() -> None:
    with as_command(ClusterError, ServerError):
        install(partial(Terminal().say, SUPERVISOR))


if __name__ == "__main__":
    main()
