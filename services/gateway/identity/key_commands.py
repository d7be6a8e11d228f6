"""Commands `keys create|list|rotate|revoke`, `audit-log` and `migrate` of the gateway.

No other module prints keys.
"""

import argparse
import sys
import time
from datetime import UTC, datetime

from services.chassis.audit.acts import (
    add_audit_options,
    add_operator,
    operator,
    print_records,
)
from services.chassis.database.url import redacted_url, sqlite_file
from services.chassis.identity import Caller
from services.gateway.identity.authentication import digest_of, mint, new_secret
from services.gateway.identity.credential import (
    ALL_SCOPES,
    DEFAULT_SCOPES,
    Scope,
    scopes_from,
    scopes_text,
)
from services.gateway.store.database import migrate, open_database
from services.gateway.store.keys import SqlKeyStore

MAX_COUNT = 10_000
USAGE_ERROR = 2
DAY_SECONDS, HOUR_SECONDS = 86_400, 3_600
MAX_OVERLAP_HOURS = 30 * 24
MAX_DAYS = 36_500


def add_key_commands(parser: argparse.ArgumentParser, database_url: str) -> None:
    """Add the subcommands of `keys` to the parser."""
    add_database(parser, database_url)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="create keys and print them, once")
    create.add_argument(
        "--user", required=True, help="user of the key; with --count the users are USER-1, USER-2 …"
    )
    create.add_argument("--tenant", default="default")
    create.add_argument("--count", type=int, default=1, help=f"number of users, 1 to {MAX_COUNT:,}")
    create.add_argument(
        "--scopes",
        default=scopes_text(DEFAULT_SCOPES).replace(" ", ","),
        help=f"some of {','.join(Scope)}, or all (default: %(default)s, as needed by the page)",
    )
    create.add_argument("--days", type=float, help="days until the keys expire (default: never)")
    commands.add_parser("list", help="ids, users, scopes and times; never the keys")
    rotate = commands.add_parser(
        "rotate", help="print a new secret; the previous one works for a limited time"
    )
    rotate.add_argument("--id", required=True, help="id as shown by `list`")
    rotate.add_argument(
        "--overlap-hours",
        type=float,
        default=24.0,
        help="hours for which the previous secret works (default: %(default)g)",
    )
    revoke = commands.add_parser(
        "revoke", help="revoke a key within seconds, including a previous secret"
    )
    revoke.add_argument("--id", required=True, help="id as shown by `list`")
    for command in (create, rotate, revoke):
        add_operator(command)


def add_audit_command(parser: argparse.ArgumentParser, database_url: str) -> None:
    """Add the arguments of `audit-log` to the parser."""
    add_database(parser, database_url)
    add_audit_options(parser)


async def run_audit_command(options: argparse.Namespace) -> int:
    """Print the audit log, a line of JSON for each record. Returns the exit status.

    Raises:
        SchemaRevisionError: The database needs a migration.
        UnavailableError: The database is unavailable.
    """
    async with open_database(options.database) as engine:
        print_records("gateway", await SqlKeyStore(engine).audit_records(options.since))
    return 0


async def run_key_command(options: argparse.Namespace) -> int:
    """Run a subcommand of `keys`. Returns the exit status.

    Raises:
        SchemaRevisionError: The database needs a migration.
        UnavailableError: The database is unavailable.
    """
    file = sqlite_file(options.database)
    if file is not None and not file.exists() and options.command != "create":
        print(f"--database: no database at {file}", file=sys.stderr)
        return USAGE_ERROR
    async with open_database(options.database) as engine:
        store = SqlKeyStore(engine)
        match options.command:
            case "create":
                return await _create(store, options)
            case "list":
                return await _list(store)
            case "rotate":
                return await _rotate(store, options)
            case _:
                if not await store.revoke(options.id, time.time(), operator(options)):
                    return _no_such_key()
                print("revoked")
                return 0


async def run_migrate_command(options: argparse.Namespace) -> int:
    """Migrate the database. Returns the exit status.

    Raises:
        UnavailableError: The database is unavailable.
    """
    before, after = await migrate(options.database)
    print(
        f"{redacted_url(options.database)}: at {after}"
        + ("" if before == after else f", was {before or 'without a revision'}")
    )
    return 0


def add_database(parser: argparse.ArgumentParser, database_url: str) -> None:
    """Add the option `--database` to the parser of a command."""
    parser.add_argument(
        "--database",
        default=database_url,
        help=f"SQLAlchemy URL (default: {redacted_url(database_url)})".replace("%", "%%"),
    )


async def _create(store: SqlKeyStore, options: argparse.Namespace) -> int:
    count, user = options.count, options.user
    users = [user] if count == 1 else [f"{user}-{number}" for number in range(1, count + 1)]
    try:
        if not 1 <= count <= MAX_COUNT:
            raise ValueError(f"--count must be 1 to {MAX_COUNT:,}")
        names = set(options.scopes.split(","))
        scopes = ALL_SCOPES if options.scopes == "all" else scopes_from(names)
        if options.scopes != "all" and len(scopes) != len(names):
            raise ValueError(f"--scopes must be some of {','.join(Scope)}, or all")
        expire_time = None
        if options.days is not None:
            if not 0 < options.days <= MAX_DAYS:
                raise ValueError(f"--days must be above 0, at most {MAX_DAYS:,}")
            expire_time = time.time() + options.days * DAY_SECONDS
        minted = [mint(Caller(options.tenant, name), scopes, expire_time) for name in users]
    except ValueError as error:
        print(error)
        return 2
    for secret, key in minted:
        await store.add(key, operator(options))
        print(secret)
    return 0


async def _list(store: SqlKeyStore) -> int:
    for key in await store.list_keys():
        now = time.time()
        parts = [f"made {_time(key.create_time)}", "never used"]
        if key.last_use_time is not None:
            parts[-1] = f"last used within an hour of {_time(key.last_use_time)}"
        if key.revoke_time is not None:
            parts.append(f"revoked {_time(key.revoke_time)}")
        elif key.expire_time is not None:
            state = "expired" if key.expire_time <= now else "works until"
            parts.append(f"{state} {_time(key.expire_time)}")
        else:
            parts.append("works")
        # Revoking a key ends its previous secret as well.
        overlap_end = key.previous_expire_time if key.revoke_time is None else None
        if overlap_end is not None and overlap_end > now:
            until = _time(overlap_end)
            parts.append(f"rotated, the previous secret works until {until}")
        times = "  ".join(parts)
        print(f"{key.key_id}  {key.caller.key:<32}  {scopes_text(key.scopes):<36}  {times}")
    return 0


async def _rotate(store: SqlKeyStore, options: argparse.Namespace) -> int:
    key_id, overlap_hours = options.id, options.overlap_hours
    if not 0 <= overlap_hours <= MAX_OVERLAP_HOURS:
        print(f"--overlap-hours must be 0 to {MAX_OVERLAP_HOURS}")
        return 2
    secret, now = new_secret(), time.time()
    until = now + overlap_hours * HOUR_SECONDS
    if not await store.rotate(key_id, digest_of(secret), now, until, operator(options)):
        return _no_such_key()
    print(secret)
    # Printed to stderr, because scripts read the key from stdout.
    print(f"the previous secret works until {_time(until)}", file=sys.stderr)
    return 0


def _no_such_key() -> int:
    print("no working key has this id")
    return 1


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
