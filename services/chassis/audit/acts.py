"""Audit log: a record for each administrative act, with the actor, the object and the outcome.

Records contain ids and the reasons given by operators, never texts of users or secrets. The tables
are defined in `table`, apart from this module: a service without a database loads no database
driver.
"""

import argparse
import getpass
import json
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from services.chassis.identity import current_call
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

DONE = "done"
MAX_OPERATOR_CHARACTERS = 64
_UNITS = {"m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True)
class Act:
    """An administrative act.

    Args:
        act: what was done, a constant phrase such as `key revoked`.
        actor: `operator/NAME` for a command, the name of a service for a signed call, or a
            pseudonym.
        object: id of the key, version or erasure.
        outcome: DONE, or the reason of a refusal.
        detail: figures or the actor's reason.
    """

    act: str
    actor: str
    object: str
    outcome: str = DONE
    detail: str = ""

    def record(self) -> dict[str, Any]:
        """Return the columns of the record."""
        return {
            "time_us": time.time_ns() // 1_000,
            "request_id": current_call().request_id,
        } | asdict(self)

    def log(self) -> None:
        """Log the act without its detail; called after the record is committed.

        Commands configure no logging and print no such line.
        """
        log.info("administrative act", extra=fields(**{**asdict(self), "detail": ""}))


def calling_service() -> str:
    """Return the signing service of the running call; calls without a signature are `unsigned`."""
    return current_call().signer or "unsigned"


def add_operator(parser: argparse.ArgumentParser) -> None:
    """Add the option with the name of the operator."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        login = "unnamed"
    parser.add_argument(
        "--by", type=_operator, default=login, help="operator, for the audit log (%(default)s)"
    )


def add_audit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command for printing the audit log."""
    parser.add_argument(
        "--since", type=_since, default=0, metavar="7d", help="age in m, h or d (default: all)"
    )


def operator(options: argparse.Namespace) -> str:
    """Return the actor of a command with the option of `add_operator`."""
    return f"operator/{options.by}"


def print_records(service: str, records: Iterable[Mapping[str, Any]]) -> None:
    """Print records as lines of JSON; the time comes first, for sorting."""
    names = ("actor", "act", "object", "outcome", "detail", "request_id")
    for record in records:
        moment = datetime.fromtimestamp(record["time_us"] / 1e6, UTC)
        head = {"time": moment.isoformat(timespec="microseconds"), "service": service}
        print(json.dumps(head | {name: record[name] for name in names}))


def _operator(text: str) -> str:
    if not 1 <= len(text) <= MAX_OPERATOR_CHARACTERS:
        raise argparse.ArgumentTypeError(f"1 to {MAX_OPERATOR_CHARACTERS} characters")
    return text


def _since(text: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError("an age such as 30m, 12h or 7d")
    return time.time_ns() // 1_000 - int(found[1]) * _UNITS[found[2]] * 1_000_000
