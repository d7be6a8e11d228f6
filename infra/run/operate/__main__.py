"""Run an administrative command of a service against the stores of a state folder.

Usage: `thumbwheel COMMAND [--state FOLDER] OPTIONS`, for example `thumbwheel halt --reason …`. The
service checks the options. In a cluster run `python3 -m services.SERVICE COMMAND` in a pod of the
service.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.run.embedded.environment import service_environment
from infra.run.embedded.layout import ROOT
from infra.service_table import service_table

SERVICES = {
    **dict.fromkeys(("halt", "restore", "resume", "rollout"), "generator"),
    "rotate-master-key": "feedback",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="thumbwheel", add_help=False, allow_abbrev=False)
    parser.add_argument("command", choices=list(SERVICES))
    parser.add_argument("--state", type=Path, default=ROOT / ".state")
    options, rest = parser.parse_known_args()
    options.state = options.state.resolve()
    service = SERVICES[options.command]
    words = [sys.executable, "-m", f"services.{service}", options.command, *rest]
    os.chdir(ROOT)
    environment = service_environment(options.state)
    for key in service_table()[service].keys:
        file = options.state / f"{key.removesuffix('-key')}.key"
        if file.exists():
            environment[f"TW_{service.upper()}_{key.replace('-', '_').upper()}"] = file.read_text()
    os.execve(sys.executable, words, environment)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
