"""Prepare the folder of a store, then replace this process by the server.

Usage: `python -m infra.evaluation_stores postgres|kafka|s3|valkey`. The server receives signals
directly.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.evaluation_stores.places import DATA, IMAGE, SECRETS, Place
from infra.evaluation_stores.preparation import PREPARE
from infra.servers.errors import ServerError
from infra.supervision.ports import HOST


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.evaluation_stores", description=__doc__)
    parser.add_argument("store", choices=PREPARE)
    parser.add_argument(
        "--known-as",
        default=HOST,
        metavar="HOST",
        help="host name that Kafka advertises to clients",
    )
    options = parser.parse_args()
    place = Place(Path(DATA), Path(SECRETS), IMAGE, listens_on="0.0.0.0", known_as=options.known_as)  # noqa: S104
    try:
        program = PREPARE[options.store](place)
    except ServerError as error:
        sys.exit(f"==> {error}")
    os.execve(program.command[0], program.command, {**os.environ, **program.environment})  # noqa: S606


if __name__ == "__main__":
    main()
