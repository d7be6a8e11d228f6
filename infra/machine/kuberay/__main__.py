"""Build the KubeRay operator into the cache: `python -m infra.machine.kuberay`.

`make deploy TRAINING=kuberay` and tests run this command.
"""

import sys
from functools import partial

from infra.machine.cluster.errors import ClusterError
from infra.machine.kuberay.installation import install
from infra.machine.servers.errors import ServerError
from infra.run.supervision import interruption
from infra.run.supervision.terminal import SUPERVISOR, Terminal


def main() -> None:
    interruption.treat_sigterm_as_ctrl_c()
    try:
        install(partial(Terminal().say, SUPERVISOR))
    except (ClusterError, ServerError) as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        interruption.exit_interrupted()


if __name__ == "__main__":
    main()
