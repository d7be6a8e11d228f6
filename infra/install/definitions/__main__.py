"""Download the resource definitions into the cache: `python -m infra.install.definitions`."""

from functools import partial

from infra.install.definitions.installation import install
from infra.machine.servers.errors import ServerError
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal


def main() -> None:
    with as_command(ServerError):
        install(partial(Terminal().say, SUPERVISOR))


if __name__ == "__main__":
    main()
