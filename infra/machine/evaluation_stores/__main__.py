"""Prepare the folder of a store, then replace this process by the server.

Usage: `python -m infra.machine.evaluation_stores postgres|kafka|s3|valkey`. The server receives
signals directly.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.machine.evaluation_stores.layout import DATA, IMAGE, SECRETS, StoreLayout
from infra.machine.evaluation_stores.preparation import PREPARE
from infra.machine.servers.errors import ServerError
from infra.run.supervision.ports import HOST


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m infra.machine.evaluation_stores", description=__doc__
    )
    parser.add_argument("store", choices=PREPARE)
    parser.add_argument(
        "--known-as",
        default=HOST,
        metavar="HOST",
        help="host name that Kafka advertises to clients",
    )
    options = parser.parse_args()
    everywhere = "0.0.0.0"  # noqa: S104 - a pod has its own network namespace
    layout = StoreLayout(
        Path(DATA), Path(SECRETS), IMAGE, listens_on=everywhere, known_as=options.known_as
    )
    try:
        program = PREPARE[options.store](layout)
    except ServerError as error:
        sys.exit(f"==> {error}")
    environment = {**os.environ, **program.environment}
    os.execve(program.command[0], program.command, environment)  # noqa: S606


if __name__ == "__main__":
    main()
