"""Run an administrative command of a service against the stores of a state folder.

Usage: `thumbwheel COMMAND [--state FOLDER] OPTIONS`, for example `thumbwheel halt --reason …`. The
service checks the options. In a cluster run `python3 -m services.SERVICE COMMAND` in a pod of the
service.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from infra.run.embedded.environment import service_environment
from infra.run.embedded.layout import ROOT
from infra.service_table import service_table

SERVICES = {
    **dict.fromkeys(("halt", "restore", "resume", "rollout"), "generator"),
    "rotate-master-key": "feedback",
    "keys": "gateway",
}
# Commands of services that have another name in `thumbwheel`.
NAMES = {"rotate-master-key": "keys master"}
USAGE_ERROR = 2
# Runs the module of the second argument under the name of the first, for the usage in its errors.
START = "import runpy, sys; del sys.argv[0]; runpy.run_module(sys.argv.pop(1), None, '__main__')"
AUDITED = ("feedback", "gateway", "generator", "review")


def main() -> None:
    parser = argparse.ArgumentParser(prog="thumbwheel", add_help=False, allow_abbrev=False)
    parser.add_argument("command", choices=[*SERVICES, "audit"])
    add_state(parser)
    options, rest = parser.parse_known_args()
    options.state = options.state.resolve()
    is_help = not {"-h", "--help"}.isdisjoint(rest)
    if not is_help and not options.state.is_dir():
        print(f"--state: no state folder {options.state}; `make up` creates one", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    os.chdir(ROOT)
    if options.command == "audit":
        sys.exit(print_audit_log(options.state, rest))
    service = SERVICES[options.command]
    words = [sys.executable, "-m", f"services.{service}", options.command, *rest]
    environment = environment_of(service, options.state)
    if is_help:
        print_help(words, environment)
    else:
        name = NAMES.get(options.command, options.command)
        start = [sys.executable, "-c", START, f"thumbwheel {name}", *words[2:]]
        os.execve(sys.executable, start, environment)  # noqa: S606


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add the option for the state folder of the running system."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FOLDER",
        default=ROOT / ".state",
        help="state folder of the system (default: %(default)s)",
    )


def print_help(words: list[str], environment: dict[str, str]) -> None:
    """Print the help of a service's command under the name of this command, with `--state`."""
    module, command = words[2:4]
    name = NAMES.get(command, command)
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout.replace(f"python -m {module} {command}", f"thumbwheel {name}"))
    print(f"  --state FOLDER  state folder of the system (default: {ROOT / '.state'})")
    if command == "keys":
        print("\nfurther commands: thumbwheel keys master, thumbwheel keys identity")
    sys.exit(done.returncode)


def print_audit_log(state: Path, words: list[str]) -> int:
    """Print the audit logs of all services in order of time.

    Returns the highest exit status of the services. A service whose log cannot be read prints its
    reason, and the records of the others are still printed.
    """
    parser = argparse.ArgumentParser(prog="thumbwheel audit")
    add_state(parser)
    parser.add_argument("--service", choices=AUDITED, help="only the acts of one service")
    parser.add_argument("--since", metavar="7d", help="age in m, h or d (default: all)")
    options = parser.parse_args(words)
    since = ["--since", options.since] if options.since else []
    lines: list[str] = []
    status = 0
    for service in [options.service] if options.service else AUDITED:
        done = subprocess.run(
            [sys.executable, "-m", f"services.{service}", "audit-log", *since],
            env=environment_of(service, state),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            print(f"audit: no complete log of {service}", file=sys.stderr)
        # The status of a process that a signal ended is negative.
        status = max(status, abs(done.returncode))
        lines += done.stdout.splitlines()
    for line in sorted(lines):
        print(line)
    return status


def environment_of(service: str, state: Path) -> dict[str, str]:
    """Return the environment of a command of a service, with the keys of the state folder."""
    environment = service_environment(state)
    for key in service_table()[service].keys:
        file = state / f"{key.removesuffix('-key')}.key"
        if file.exists():
            environment[f"TW_{service.upper()}_{key.replace('-', '_').upper()}"] = file.read_text()
    return environment


if __name__ == "__main__":
    main()
