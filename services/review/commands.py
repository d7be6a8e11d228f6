"""Commands of operators: `accounts list|quarantine|release` and `audit-log`."""

import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime

from services.chassis.audit.acts import (
    add_audit_options,
    add_operator,
    operator,
    print_records,
)
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.review.settings import ReviewSettings
from services.review.store.accounts import SqlAccountStore
from services.review.store.database import open_database

USAGE_ERROR = 2
MAX_REASON_CHARACTERS = 500


def add_commands(parser: ArgumentParser) -> None:
    """Add the subcommands to the parser."""
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="run the service (default)")
    commands.add_parser("migrate", help="migrate the database")
    add_audit_options(commands.add_parser("audit-log", help="print administrative acts as JSON"))
    accounts = commands.add_parser("accounts", help="accounts that have voted, by pseudonym")
    acts = accounts.add_subparsers(dest="act", required=True)
    shown = acts.add_parser("list", help="accounts with votes, trust and state")
    shown.add_argument("--quarantined", action="store_true", help="only accounts in quarantine")
    quarantine = acts.add_parser("quarantine", help="count no vote of an account, until `release`")
    release = acts.add_parser(
        "release", help="count the votes of an account again, and send their events"
    )
    for command in (quarantine, release):
        command.add_argument("--principal", help="pseudonym, as shown by `list`")
        command.add_argument("--tenant", default="default", help="tenant of --user (%(default)s)")
        command.add_argument("--user", help="name of the user, in place of --principal")
        command.add_argument("--reason", required=True, help="for the audit log; no text of users")
        add_operator(command)


async def run_command(options: Namespace, settings: ReviewSettings) -> int:
    """Run `accounts` or `audit-log` and return the exit status.

    Raises:
        SchemaRevisionError: the database needs a migration.
        UnavailableError: the database is unavailable.
    """
    async with open_database(settings.database_url) as engine:
        store = SqlAccountStore(engine)
        if options.command == "audit-log":
            print_records("review", await store.audit_records(options.since))
            return 0
        if options.act == "list":
            return await _list(store, only_quarantined=options.quarantined)
        if (options.principal is None) == (options.user is None):
            print("one of --principal and --user is needed", file=sys.stderr)
            return USAGE_ERROR
        if not 1 <= len(options.reason) <= MAX_REASON_CHARACTERS:
            print(f"--reason: 1 to {MAX_REASON_CHARACTERS} characters", file=sys.stderr)
            return USAGE_ERROR
        principal = options.principal or principal_of(
            settings.principal_key.get_secret_value(), Caller(options.tenant, options.user)
        )
        change = store.quarantine if options.act == "quarantine" else store.release
        if not await change(principal, operator(options), options.reason):
            state = "outside quarantine" if options.act == "quarantine" else "in quarantine"
            print(f"no account {state} has this principal", file=sys.stderr)
            return 1
        print("quarantined" if options.act == "quarantine" else "released")
        return 0


async def _list(store: SqlAccountStore, *, only_quarantined: bool) -> int:
    for account in await store.list_accounts(only_quarantined=only_quarantined):
        since = datetime.fromtimestamp(account.create_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = "quarantined" if account.quarantined else "released" if account.released else ""
        print(
            f"{account.principal}  {account.tenant:<16}  {account.votes:>6} votes since {since}"
            f"  trust {account.weight:.2f}  {state}".rstrip()
        )
    return 0
