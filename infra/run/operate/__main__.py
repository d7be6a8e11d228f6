"""Run an administrative command of a service against the stores of a state folder.

Usage: `thumbwheel halt|restore|resume|rollout [--state FOLDER] OPTIONS`. The service checks the
options. In a cluster run `python3 -m services.SERVICE COMMAND` in a pod of the service.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.run.embedded.environment import service_environment
from infra.run.embedded.layout import ROOT

SERVICES = dict.fromkeys(("halt", "restore", "resume", "rollout"), "generator")


def main() -> None:
    parser = argparse.ArgumentParser(prog="thumbwheel", add_help=False, allow_abbrev=False)
    parser.add_argument("command", choices=list(SERVICES))
    parser.add_argument("--state", type=Path, default=ROOT / ".state")
    options, rest = parser.parse_known_args()
    service = f"services.{SERVICES[options.command]}"
    words = [sys.executable, "-m", service, options.command, *rest]
    os.chdir(ROOT)
    environment = service_environment(options.state.resolve())
    os.execve(sys.executable, words, environment)  # noqa: S606 - no shell


if __name__ == "__main__":
    main()
