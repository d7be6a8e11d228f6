"""Run a command of `thumbwheel review` against the system of a state folder.

Ports and stores of a running system, embedded or the stack, are given to the command of training.
Options of the caller come later and therefore apply. In a cluster run `python3 -m training draw`.
"""

import argparse
import os
import runpy
import sys
from contextlib import suppress

from infra.run.embedded.environment import loop_environment
from infra.run.embedded.layout import Layout
from infra.run.operate.__main__ import add_state
from infra.run.supervision.supervisor import NotRunningError, read_ports

CALLED = ("feedback", "review")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_state(parser)
    state = parser.parse_known_args()[0].state.resolve()
    name, command, *words = sys.argv
    targets: list[str] = []
    # Without a running system the usual ports remain, for example those of a port-forward.
    with suppress(NotRunningError):
        layout = Layout(state, read_ports(state))
        targets = [word for each in CALLED for word in (f"--{each}", layout.target(each))]
    os.environ.update(loop_environment(state))
    sys.argv = [name, command, *targets, *words]
    runpy.run_module("training", run_name="__main__")


if __name__ == "__main__":
    main()
