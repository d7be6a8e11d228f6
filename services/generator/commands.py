"""Commands of operators on the stored rollout: `rollout`, `halt`, `restore` and `resume`.

They change the store of the rollout and not a running service, so that they work while every
generator hangs or is stopped. A running generator applies the change with its next read.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from services.chassis.audit.acts import (
    Act,
    add_audit_options,
    add_operator,
    operator,
    print_records,
)
from services.chassis.errors import FailedPreconditionError, InvalidArgumentError
from services.contracts.limits import field_error
from services.generator.rollout.canary import (
    MAX_REASON_CHARACTERS,
    ManifestError,
    manifest_version,
)
from services.generator.rollout.current_rollout import (
    NOTHING_STORED,
    CurrentRollout,
    RolloutStore,
    UnusableStoreError,
)
from services.generator.rollout.rollout import Deployment, Halt, Rollout

NO_CHANGE = "no change"
ACTS = {"halt": "halted", "restore": "restored", "resume": "resumed"}
USAGE_ERROR = 2
SHOWN_CHANGES = 5


def add_commands(parser: ArgumentParser) -> None:
    """Add the subcommands to the parser."""
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (default)")
    commands.add_parser("migrate", help="migrate the database of the rollout")
    rollout = commands.add_parser("rollout", help="print the stored rollout")
    add_audit_options(commands.add_parser("audit-log", help="print administrative acts as JSON"))
    halt = commands.add_parser(
        "halt", help="end the canary at once; no canary, promotion or training run until `resume`"
    )
    restore = commands.add_parser(
        "restore", help="during a halt: make an earlier version stable, without a canary"
    )
    restore.add_argument("--version", required=True, help="name in its manifest")
    restore.add_argument(
        "--directory", type=Path, help="its model directory (default: beside the stable version's)"
    )
    resume = commands.add_parser("resume", help="lift a halt")
    for command in (halt, restore):
        command.add_argument(
            "--reason", required=True, help="shown to operators and stored; no text of users"
        )
    for command in (halt, restore, resume):
        add_operator(command)
    for command in (rollout, halt, restore, resume):
        command.add_argument(
            "--json", action="store_true", help="print the rollout as JSON, for programs"
        )


async def run_rollout_command(
    options: Namespace, store: RolloutStore, now_us: Callable[[], int]
) -> int:
    """Run a command on the stored rollout, print the result, and return the exit status.

    Raises:
        UnusableStoreError: no rollout is stored, or it cannot be decoded.
        UnavailableError: the store does not answer.
    """
    if options.command == "audit-log":
        print_records("generator", await store.audit_records(options.since))
        return 0
    stored = await store.load()
    if stored == NOTHING_STORED:
        raise UnusableStoreError(
            "no rollout is stored here; a generator stores one at its first start",
            reason="MISSING",
        )
    current = CurrentRollout(store, stored, now_us)
    try:
        if options.command != "rollout":
            reason = getattr(options, "reason", None)
            if reason is not None and not 1 <= len(reason) <= MAX_REASON_CHARACTERS:
                raise field_error("reason", f"1 to {MAX_REASON_CHARACTERS} characters")
            await _change(options, current, store, now_us())
    except (InvalidArgumentError, FailedPreconditionError) as error:
        # A precondition concerns the rollout, not an option.
        is_option = isinstance(error, InvalidArgumentError)
        print(
            f"--{error.field}: {error.limit or error.text}" if is_option else error.text,
            file=sys.stderr,
        )
        return USAGE_ERROR
    if options.json:
        shown = asdict(replace(current.rollout, history=current.rollout.history[:SHOWN_CHANGES]))
        names = ("halt", "stable", "candidate", "watch", "history")
        print(json.dumps({name: shown[name] for name in names}, indent=2))
    else:
        print(_text(current.rollout))
    return 0


def _text(rollout: Rollout) -> str:
    """Return the rollout for an operator, with times in ISO 8601 (UTC)."""
    halt, stable, watch = rollout.halt, rollout.stable, rollout.watch
    lines = [
        ("halt", f"since {_time(halt.time_us)} by {halt.operator}: {halt.reason}" if halt else ""),
        # An external model has no directory.
        ("stable", " in ".join(filter(None, (stable.version, stable.directory))) if stable else ""),
    ]
    canary = ""
    if candidate := rollout.candidate:
        users = f"{candidate.share:.1%} of the users"
        canary = (
            f"{candidate.version}, {users if candidate.live else f'being loaded for {users}'}; "
            f"ends at {_time(candidate.lease_end_us)} unless its run extends it"
        )
    lines.append(("canary", canary))
    watched = ""
    if watch:
        watched = (
            f"{watch.previous.version} keeps {watch.share:.1%} of the users "
            f"until {_time(watch.end_us)}"
        )
    lines.append(("watch", watched))
    changes = rollout.history[:SHOWN_CHANGES]
    for number, change in enumerate(changes):
        about = f"{_time(change.time_us)}  {change.version} {change.kind.replace('_', ' ')}"
        reason = f": {change.reason}" if change.reason else ""
        lines.append(("" if number else "changes", about + reason))
    if not changes:
        lines.append(("changes", ""))
    return "\n".join(f"{name:<9}{value or 'none'}" for name, value in lines)


def _time(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _change(
    options: Namespace, current: CurrentRollout, store: RolloutStore, now_us: int
) -> None:
    """Apply the command. Refused acts and acts without a change are recorded as well.

    Raises:
        InvalidArgumentError: the directory holds no finished model of this version.
        FailedPreconditionError: the rollout does not permit the act.
        UnavailableError: the store does not answer.
    """
    version = options.version if options.command == "restore" else "rollout"
    name, reason = f"rollout {ACTS[options.command]}", getattr(options, "reason", "")
    act, unchanged = Act(name, operator(options), version, detail=reason), False
    try:
        transition = _transition(options, current.rollout, now_us)
    except InvalidArgumentError as error:
        await current.record_refusal(act, error)
        raise

    def observed(found: Rollout) -> Rollout:
        nonlocal unchanged
        changed = transition(found)
        unchanged = changed == found
        return changed

    rollout = await current.change(observed, act)
    if unchanged:
        halt = rollout.halt
        state = f"halted already by {halt.operator}: {halt.reason}" if halt else "not halted"
        print(f"nothing was changed, the rollout is {state}", file=sys.stderr)
        await store.append(replace(act, outcome=NO_CHANGE))


def _transition(options: Namespace, rollout: Rollout, now_us: int) -> Callable[[Rollout], Rollout]:
    """Return the change made by the command.

    Raises:
        InvalidArgumentError: the directory holds no finished model of this version.
    """
    if options.command == "halt":
        halt = Halt(now_us, options.by, options.reason)
        return lambda found: found.halted(halt)
    if options.command == "resume":
        return Rollout.resumed
    beside = Path(rollout.stable.directory).parent if rollout.stable else Path()
    directory = (options.directory or beside / options.version).absolute()
    try:
        is_found = manifest_version(directory) == options.version
    except ManifestError:
        is_found = False
    if not is_found and options.directory is None:
        raise field_error(
            "version",
            f"that of a model in {directory.parent}, which has no finished {options.version}",
        )
    if not is_found:
        raise field_error("directory", f"a folder with a finished model of {options.version}")
    stable = Deployment(options.version, str(directory))
    return lambda found: found.restored(stable, options.reason, now_us)
