"""Build the KubeRay operator into the cache: `python -m infra.kuberay`.

`make deploy TRAINING=kuberay` and tests run this command.
"""

import sys
from functools import partial

from infra.cluster.errors import ClusterError
from infra.kuberay.installation import install
from infra.servers.errors import ServerError
from infra.supervision import interruption
from infra.supervision.terminal import SUPERVISOR, Terminal


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
