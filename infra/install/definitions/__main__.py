"""Download the resource definitions into the cache: `python -m infra.install.definitions`."""

import sys
from functools import partial

from infra.install.definitions.installation import install
from infra.machine.servers.errors import ServerError
from infra.run.supervision import interruption
from infra.run.supervision.terminal import SUPERVISOR, Terminal


def main() -> None:
    interruption.treat_sigterm_as_ctrl_c()
    try:
        install(partial(Terminal().say, SUPERVISOR))
    except ServerError as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        interruption.exit_interrupted()


if __name__ == "__main__":
    main()
